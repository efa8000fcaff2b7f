// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {SumTree} from "../../src/libraries/SumTree.sol";
import {VM} from "../Vm.sol";

/// @notice Run by scripts/prove-contracts, for all inputs; keccak256 is taken to have no collisions.
contract SumTreeProofs {
    struct Path {
        bytes32 h0;
        bytes32 h1;
        bytes32 h2;
        uint64 s0;
        uint64 s1;
        uint64 s2;
    }

    function climb(
        bytes32 hash,
        uint64 sum,
        uint256 index,
        bytes32[] calldata hashes,
        uint64[] calldata sums
    ) external pure returns (bytes32, uint256) {
        SumTree.Node memory top = SumTree.Node({hash: hash, sum: sum});
        SumTree.climb(top, index, hashes.length, hashes, sums, 0);
        return (top.hash, top.sum);
    }

    /// @notice Under one root and sum, an index has one leaf and one price. Three levels.
    function check_OneIndexOpensAsOneLeaf(
        bytes32 leaf,
        uint64 price,
        bytes32 otherLeaf,
        uint64 otherPrice,
        uint8 index,
        Path calldata path,
        Path calldata otherPath
    ) external {
        VM.assume(index < 8);
        (bytes32 root, uint256 sum) = _climb(leaf, price, index, path);
        (bytes32 otherRoot, uint256 otherSum) = _climb(otherLeaf, otherPrice, index, otherPath);
        if (root != otherRoot || sum != otherSum) return;
        assert(leaf == otherLeaf);
        assert(price == otherPrice);
    }

    /// @notice The sum of a root is the price and all its siblings', without loss.
    function check_SumIsThatOfAllParts(bytes32 leaf, uint64 price, uint8 index, Path calldata path)
        external
    {
        VM.assume(index < 8);
        (, uint256 sum) = _climb(leaf, price, index, path);
        assert(sum == uint256(price) + path.s0 + path.s1 + path.s2);
    }

    function _climb(bytes32 leaf, uint64 price, uint256 index, Path calldata path)
        private
        view
        returns (bytes32, uint256)
    {
        bytes32[] memory hashes = new bytes32[](3);
        uint64[] memory sums = new uint64[](3);
        (hashes[0], hashes[1], hashes[2]) = (path.h0, path.h1, path.h2);
        (sums[0], sums[1], sums[2]) = (path.s0, path.s1, path.s2);
        return this.climb(leaf, price, index, hashes, sums);
    }
}
