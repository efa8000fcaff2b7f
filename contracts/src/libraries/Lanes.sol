// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Lanes
/// @notice Packed lanes: what one requester pays one payee in a batch.
/// @dev uint16 requester index ‖ uint16 payee index ‖ uint32 count ‖ uint64 amount ‖ bytes32 root.
/// Packed, because ABI words would triple the calldata, which is most of what a lane costs.
library Lanes {
    /// @notice Bytes of one lane.
    uint256 internal constant SIZE = 48;

    /// @notice Reads all but the root of lane `index`, which `lanes` must hold whole.
    function read(bytes calldata lanes, uint256 index)
        internal
        pure
        returns (uint256 requester, uint256 payee, uint256 count, uint256 amount)
    {
        uint256 head;
        // A slice would check its bounds again, for 460 gas a lane. Beyond the calldata this reads
        // zeros, never memory.
        assembly ("memory-safe") {
            head := calldataload(add(lanes.offset, mul(index, SIZE)))
        }
        requester = head >> 240;
        payee = uint16(head >> 224);
        count = uint32(head >> 192);
        amount = uint64(head >> 128);
    }
}
