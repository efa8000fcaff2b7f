// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title SumTree
/// @notice Merkle tree whose nodes also carry sums: a leaf cannot be opened unless the amounts add
/// up to the amount above.
/// @dev node = keccak256(0x01 ‖ leftHash ‖ uint64 leftSum ‖ rightHash ‖ uint64 rightSum). Leaves are
/// padded to a power of two with (0, 0). The tag keeps leaves (0x00) and nodes apart; the depth is
/// fixed by the count, so that no leaf can hide below another and no index has two paths.
library SumTree {
    /// @notice A place in a tree while climbing it.
    struct Node {
        bytes32 hash;
        uint256 sum;
    }

    /// @notice Path length of a tree of `count` leaves: ceil(log2(count)); 0 for none.
    function depth(uint256 count) internal pure returns (uint256 levels) {
        while ((uint256(1) << levels) < count) ++levels;
    }

    /// @notice Hash of an inner node.
    function node(bytes32 leftHash, uint64 leftSum, bytes32 rightHash, uint64 rightSum)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encodePacked(bytes1(0x01), leftHash, leftSum, rightHash, rightSum));
    }

    /// @notice Climbs `levels` levels from a node at `index`, along siblings from `start` on.
    /// @dev The caller has checked that the path is long enough. Sums are kept wide: one that passed
    /// 64 bits can never equal an amount again.
    function climb(
        Node memory top,
        uint256 index,
        uint256 levels,
        bytes32[] calldata hashes,
        uint64[] calldata sums,
        uint256 start
    ) internal pure {
        for (uint256 level = 0; level < levels; ++level) {
            (bytes32 sibling, uint64 sum) = (hashes[start + level], sums[start + level]);
            top.hash = (index >> level) & 1 == 0
                ? node(top.hash, uint64(top.sum), sibling, sum)
                : node(sibling, sum, top.hash, uint64(top.sum));
            top.sum += sum;
        }
    }
}
