// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../interfaces/ISettlement.sol";
import {ErrorsLib} from "./ErrorsLib.sol";

/// @title Accounts
/// @notice Credit that matures by time, without any transaction to finalize it.
/// @dev A payee is one word: uint64 available ‖ uint64 prev ‖ uint64 cur ‖ uint32 epoch, from the
/// highest bits down. As a struct it would cost 900 gas more for each payee of a batch. The contract
/// never holds more than 64 bits can count, so no sum of these overflows into the next.
/// `put` and `draw` want a word that was rolled to the present epoch.
library Accounts {
    uint256 private constant AVAILABLE = 192;
    uint256 private constant PREV = 128;
    uint256 private constant CUR = 64;

    /// @notice Moves a payee's credit forward to epoch `current`.
    /// @dev Credit of epoch e waits in `cur` during e, in `prev` during e + 1, and is available
    /// from e + 2: so each credit waits for at least one whole epoch.
    function roll(uint256 word, uint32 current) internal pure returns (uint256) {
        uint256 last = uint32(word);
        if (last == current) return word;
        unchecked {
            uint256 available = (word >> AVAILABLE) + uint64(word >> PREV);
            uint256 cur = uint64(word >> CUR);
            if (last + 1 == current) {
                return (available << AVAILABLE) | (cur << PREV) | current;
            }
            return ((available + cur) << AVAILABLE) | current;
        }
    }

    /// @notice Adds credit that was earned in `epoch`: it matures when it would have.
    function put(uint256 word, uint32 epoch, uint64 amount) internal pure returns (uint256) {
        unchecked {
            return word + (uint256(amount) << _place(uint32(word), epoch));
        }
    }

    /// @notice Takes back credit that was earned in `epoch` and has not matured.
    function draw(uint256 word, uint32 epoch, uint64 amount) internal pure returns (uint256) {
        uint256 place = _place(uint32(word), epoch);
        if (place == AVAILABLE) revert ErrorsLib.CreditMatured(uint32(word) - 1, epoch);
        uint64 waiting = uint64(word >> place);
        if (amount > waiting) revert ErrorsLib.InsufficientCredit(amount, waiting);
        return word - (uint256(amount) << place);
    }

    /// @notice What can be claimed, and the word without it.
    function empty(uint256 word) internal pure returns (uint64 available, uint256 rest) {
        return (uint64(word >> AVAILABLE), uint256(uint192(word)));
    }

    /// @notice The word as people read it.
    function unpack(uint256 word) internal pure returns (ISettlement.Payee memory) {
        return ISettlement.Payee({
            available: uint64(word >> AVAILABLE),
            prev: uint64(word >> PREV),
            cur: uint64(word >> CUR),
            epoch: uint32(word)
        });
    }

    /// @dev Where credit of `epoch` is in a word of epoch `current`.
    function _place(uint256 current, uint256 epoch) private pure returns (uint256) {
        if (epoch == current) return CUR;
        return epoch + 1 == current ? PREV : AVAILABLE;
    }
}
