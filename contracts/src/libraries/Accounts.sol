// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../interfaces/ISettlement.sol";
import {ErrorsLib} from "./ErrorsLib.sol";

/// @title Accounts
/// @notice Credit that matures by time, without any transaction to finalize it.
/// @dev `put` and `draw` want an account that was rolled to the present epoch.
library Accounts {
    /// @notice Moves a payee's credit forward to epoch `current`.
    /// @dev Credit of epoch e waits in `cur` during e, in `prev` during e + 1, and is available
    /// from e + 2: so each credit waits for at least one whole epoch.
    function roll(ISettlement.Payee memory payee, uint32 current) internal pure {
        if (payee.epoch == current) return;
        if (payee.epoch + 1 == current) {
            payee.available += payee.prev;
            payee.prev = payee.cur;
        } else {
            payee.available += payee.prev + payee.cur;
            payee.prev = 0;
        }
        payee.cur = 0;
        payee.epoch = current;
    }

    /// @notice Adds credit that was earned in `epoch`: it matures when it would have.
    function put(ISettlement.Payee memory payee, uint32 epoch, uint64 amount) internal pure {
        if (epoch == payee.epoch) payee.cur += amount;
        else if (epoch + 1 == payee.epoch) payee.prev += amount;
        else payee.available += amount;
    }

    /// @notice Takes back credit that was earned in `epoch` and has not matured.
    function draw(ISettlement.Payee memory payee, uint32 epoch, uint64 amount) internal pure {
        if (epoch == payee.epoch) payee.cur -= amount;
        else if (epoch + 1 == payee.epoch) payee.prev -= amount;
        else revert ErrorsLib.CreditMatured(payee.epoch - 1, epoch);
    }
}
