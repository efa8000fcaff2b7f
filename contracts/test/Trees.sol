// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {SumTree} from "../src/libraries/SumTree.sol";

/// @notice Builds sum trees and paths the slow, plain way; the contracts only climb them.
library Trees {
    /// @notice All nodes, level by level from the leaves, each padded to a power of two.
    function build(bytes32[] memory hashes, uint64[] memory sums)
        internal
        pure
        returns (bytes32[][] memory h, uint64[][] memory s)
    {
        uint256 levels = SumTree.depth(hashes.length);
        h = new bytes32[][](levels + 1);
        s = new uint64[][](levels + 1);
        uint256 width = 1 << levels;
        (h[0], s[0]) = (new bytes32[](width), new uint64[](width));
        for (uint256 i = 0; i < hashes.length; ++i) {
            (h[0][i], s[0][i]) = (hashes[i], sums[i]);
        }
        for (uint256 level = 0; level < levels; ++level) {
            width /= 2;
            (h[level + 1], s[level + 1]) = (new bytes32[](width), new uint64[](width));
            for (uint256 i = 0; i < width; ++i) {
                (h[level + 1][i], s[level + 1][i]) = _join(h[level], s[level], 2 * i);
            }
        }
    }

    /// @notice Root and sum.
    function root(bytes32[] memory hashes, uint64[] memory sums)
        internal
        pure
        returns (bytes32, uint64)
    {
        (bytes32[][] memory h, uint64[][] memory s) = build(hashes, sums);
        return (h[h.length - 1][0], s[s.length - 1][0]);
    }

    /// @notice Siblings of `index` from the leaves up.
    function path(bytes32[] memory hashes, uint64[] memory sums, uint256 index)
        internal
        pure
        returns (bytes32[] memory pathHashes, uint64[] memory pathSums)
    {
        (bytes32[][] memory h, uint64[][] memory s) = build(hashes, sums);
        pathHashes = new bytes32[](h.length - 1);
        pathSums = new uint64[](h.length - 1);
        for (uint256 level = 0; level < pathHashes.length; ++level) {
            uint256 sibling = (index >> level) ^ 1;
            (pathHashes[level], pathSums[level]) = (h[level][sibling], s[level][sibling]);
        }
    }

    function _join(bytes32[] memory h, uint64[] memory s, uint256 i)
        private
        pure
        returns (bytes32, uint64)
    {
        return (SumTree.node(h[i], s[i], h[i + 1], s[i + 1]), s[i] + s[i + 1]);
    }
}
