// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Lanes
/// @notice Packed lanes: what one requester pays one payee in a batch.
/// @dev uint16 requester index ‖ uint16 payee index ‖ uint32 leaves ‖ uint64 amount. Packed, because
/// calldata is most of what a lane costs; the lanes' roots are under the one root of the batch.
library Lanes {
    /// @notice Bytes of one lane.
    uint256 internal constant SIZE = 16;

    /// @notice Reads lane `index`, which `lanes` must hold whole.
    function read(bytes calldata lanes, uint256 index)
        internal
        pure
        returns (uint256 requester, uint256 payee, uint256 leaves, uint256 amount)
    {
        uint256 word;
        // A slice would check its bounds again, for 460 gas a lane. Beyond the calldata this reads
        // zeros, never memory.
        assembly ("memory-safe") {
            word := calldataload(add(lanes.offset, mul(index, SIZE)))
        }
        requester = word >> 240;
        payee = uint16(word >> 224);
        leaves = uint32(word >> 192);
        amount = uint64(word >> 128);
    }

    /// @notice How many lanes `lanes` holds.
    function count(bytes calldata lanes) internal pure returns (uint256) {
        return lanes.length / SIZE;
    }

    /// @notice totals[index] += amount, without a check.
    /// @dev The caller has checked the index, and that no total can overflow; checking both again
    /// would cost 400 gas a lane.
    function add(uint256[] memory totals, uint256 index, uint256 amount) internal pure {
        assembly ("memory-safe") {
            let place := add(add(totals, 32), shl(5, index))
            mstore(place, add(mload(place), amount))
        }
    }
}
