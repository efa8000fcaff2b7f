// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "./ErrorsLib.sol";

/// @title SumTree
/// @notice Merkle tree whose nodes also carry sums: a leaf cannot be opened unless the amounts add
/// up to the lane's amount.
/// @dev node = keccak256(0x01 ‖ leftHash ‖ uint64 leftSum ‖ rightHash ‖ uint64 rightSum). Leaves are
/// padded to a power of two with (0, 0). The tag keeps leaves (0x00) and nodes apart; the depth is
/// fixed by the count, so that no leaf can hide below another and no index has two paths.
library SumTree {
    /// @notice Path length of a tree of `count` leaves: ceil(log2(count)).
    function depth(uint256 count) internal pure returns (uint256 levels) {
        if (count == 0) revert ErrorsLib.BadLeaves(1, 0);
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

    /// @notice Root and sum of a tree. Overwrites nothing; reverts when the sum passes 64 bits.
    function root(bytes32[] memory hashes, uint64[] memory sums)
        internal
        pure
        returns (bytes32 rootHash, uint64 rootSum)
    {
        if (hashes.length != sums.length) {
            revert ErrorsLib.BadLeaves(hashes.length, sums.length);
        }
        uint256 width = uint256(1) << depth(hashes.length);
        bytes32[] memory h = new bytes32[](width);
        uint64[] memory s = new uint64[](width);
        for (uint256 i = 0; i < hashes.length; ++i) {
            (h[i], s[i]) = (hashes[i], sums[i]);
        }
        for (; width > 1; width /= 2) {
            for (uint256 i = 0; i < width; i += 2) {
                h[i / 2] = node(h[i], s[i], h[i + 1], s[i + 1]);
                s[i / 2] = s[i] + s[i + 1];
            }
        }
        return (h[0], s[0]);
    }

    /// @notice Whether a leaf is at `index` of the tree with this root, sum and count.
    /// @dev False, never a revert, for a path of the wrong length, an index outside the padded tree,
    /// padding that is not (0, 0), or sums that pass 64 bits.
    function verify(
        bytes32 rootHash,
        uint64 rootSum,
        uint256 count,
        uint256 index,
        bytes32 leafHash,
        uint64 leafSum,
        bytes32[] memory siblingHashes,
        uint64[] memory siblingSums
    ) internal pure returns (bool) {
        if (count == 0) return false;
        uint256 levels = depth(count);
        if (siblingHashes.length != levels || siblingSums.length != levels) return false;
        if (index >= uint256(1) << levels) return false;
        if (index >= count && (leafHash != 0 || leafSum != 0)) return false;
        bytes32 h = leafHash;
        // Kept wide: a sum that has passed 64 bits can never equal the root's again.
        uint256 s = leafSum;
        for (uint256 level = 0; level < levels; ++level) {
            (bytes32 sibling, uint64 siblingSum) = (siblingHashes[level], siblingSums[level]);
            h = (index >> level) & 1 == 0
                ? node(h, uint64(s), sibling, siblingSum)
                : node(sibling, siblingSum, h, uint64(s));
            s += siblingSum;
        }
        return h == rootHash && s == rootSum;
    }
}
