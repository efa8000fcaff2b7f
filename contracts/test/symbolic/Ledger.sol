// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";

/// @notice What the judges ask of Settlement, without limits: it counts what was taken and given.
contract Ledger {
    uint64 public immutable CHALLENGE_BOND;
    uint64 public immutable BOND_SLASH;

    /// @notice By pocket. Wide, so that nothing wraps where the judges might.
    mapping(ISettlement.Pocket => uint256) public taken;
    mapping(ISettlement.Pocket => uint256) public given;

    constructor(uint64 challengeBond, uint64 bondSlash) {
        CHALLENGE_BOND = challengeBond;
        BOND_SLASH = bondSlash;
    }

    function take(ISettlement.Pocket from, address, uint64 amount, uint64)
        external
        returns (uint64)
    {
        taken[from] += amount;
        return amount;
    }

    function give(ISettlement.Pocket to, address, uint64 amount, uint64) external {
        given[to] += amount;
    }

    function total() external view returns (uint256 sum) {
        for (uint8 i = 0; i < 5; ++i) {
            sum += given[ISettlement.Pocket(i)];
        }
    }
}
