// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title IJudge
/// @notice What Settlement checks of a contract that may move money in dispute.
interface IJudge {
    /// @notice The contract that holds the money.
    // solhint-disable-next-line func-name-mixedcase
    function SETTLEMENT() external view returns (address);
}
