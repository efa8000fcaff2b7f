// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {IJudge} from "../interfaces/IJudge.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";

/// @title Judge
/// @notice What Disputes and Jury share: money that Settlement holds for them, and signatures.
/// @dev All parameters are Settlement's and are asked of it, so there is nothing here to set wrong.
abstract contract Judge is IJudge {
    /* CONSTANTS */

    uint8 internal constant MATCH = 1;
    uint8 internal constant MISMATCH = 2;

    /* IMMUTABLES */

    ISettlement internal immutable _SETTLEMENT;

    /* CONSTRUCTOR */

    constructor(address settlement) {
        _SETTLEMENT = ISettlement(settlement);
    }

    /* VIEWS */

    /// @inheritdoc IJudge
    function SETTLEMENT() external view returns (address) {
        return address(_SETTLEMENT);
    }

    /* INTERNAL: MONEY */

    function _take(ISettlement.Pocket from, address account, uint64 amount, uint64 since)
        internal
        returns (uint64)
    {
        return amount == 0 ? 0 : _SETTLEMENT.take(from, account, amount, since);
    }

    function _give(ISettlement.Pocket to, address account, uint64 amount, uint64 since) internal {
        if (amount != 0) _SETTLEMENT.give(to, account, amount, since);
    }

    /// @dev Takes a bond out of the caller's escrow.
    function _takeBond(uint64 amount) internal {
        _take(ISettlement.Pocket.ESCROW, msg.sender, amount, 0);
    }

    /// @dev Gives a bond back to the escrow it came from: elsewhere it would be a way around
    /// EXIT_DELAY, for a requester that makes up disputes with an accomplice.
    function _returnBond(address account, uint64 amount) internal {
        _give(ISettlement.Pocket.ESCROW, account, amount, 0);
    }

    /// @dev Pays credit that matures like any other, for the same reason.
    function _reward(address account, uint64 amount) internal {
        _give(ISettlement.Pocket.CREDIT, account, amount, uint64(block.timestamp));
    }

    /// @dev Pays `amount` in equal parts; returns what was paid, without the remainder.
    function _payEvenly(address[] memory accounts, uint64 amount) internal returns (uint64 paid) {
        if (accounts.length == 0) return 0;
        uint64 part = amount / uint64(accounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            _reward(accounts[i], part);
        }
        return part * uint64(accounts.length);
    }

    /// @dev Shares out a slash that was taken. Whoever is slashed loses at least half of it for good,
    /// also when reporter, harmed and jurors are itself.
    function _splitSlash(
        address account,
        uint64 taken,
        address reporter,
        address harmed,
        address[] memory jurors
    ) internal {
        uint64 toReporter = taken / 8;
        uint64 limit = 10 * _SETTLEMENT.CHALLENGE_BOND();
        if (toReporter > limit) toReporter = limit;
        uint64 toHarmed = harmed == address(0) ? 0 : taken / 4;
        uint64 toJurors = _payEvenly(jurors, taken / 8);
        _reward(reporter, toReporter);
        _give(ISettlement.Pocket.ESCROW, harmed, toHarmed, 0);
        _give(ISettlement.Pocket.BURNT, account, taken - toReporter - toHarmed - toJurors, 0);
        emit EventsLib.Slashed(account, reporter, harmed, taken, toReporter, toHarmed, toJurors);
    }

    /// @dev Slashes a provider's or verifier's stake.
    function _slashStake(address operator, address reporter, address harmed) internal {
        uint64 taken = _take(ISettlement.Pocket.STAKE, operator, _SETTLEMENT.STAKE_SLASH(), 0);
        _splitSlash(operator, taken, reporter, harmed, new address[](0));
    }

    /* INTERNAL: SIGNATURES */

    /// @dev ECDSA and nothing else: whoever could answer for itself by code could sign and then take
    /// it back (EIP-1271, and EIP-7702 for any key).
    function _checkSigner(address expected, bytes32 structHash, bytes calldata signature)
        internal
        view
    {
        address actual = _recover(structHash, signature);
        if (actual != expected || expected == address(0)) {
            revert ErrorsLib.WrongSigner(expected, actual);
        }
    }

    /// @dev Who signed, or zero. Only 65 bytes with low s count: one signature, one form.
    function _recover(bytes32 structHash, bytes calldata signature)
        internal
        view
        returns (address signer)
    {
        // Asked each time, because the separator changes with the chain id when a chain splits.
        bytes32 separator = _SETTLEMENT.DOMAIN_SEPARATOR();
        bytes32 digest = MessageHashUtils.toTypedDataHash(separator, structHash);
        (signer,,) = ECDSA.tryRecover(digest, signature);
    }

    /* INTERNAL: CHECKS */

    function _checkHash(bytes32 what, bytes32 expected, bytes32 actual) internal pure {
        if (expected != actual) revert ErrorsLib.WrongHash(what, expected, actual);
    }

    function _checkSame(bytes32 what, address expected, address actual) internal pure {
        if (expected != actual) revert ErrorsLib.WrongParty(what, expected, actual);
    }

    function _checkNotLate(uint256 latest) internal view {
        if (block.timestamp > latest) revert ErrorsLib.TooLate(latest, block.timestamp);
    }

    function _checkOver(uint256 latest) internal view {
        if (block.timestamp <= latest) revert ErrorsLib.TooEarly(latest + 1, block.timestamp);
    }
}
