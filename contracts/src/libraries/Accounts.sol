// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../interfaces/ISettlement.sol";

/// @title Accounts
/// @notice Credit that matures by time, without any transaction to finalize it.
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
}
