// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {SumTree} from "../../src/libraries/SumTree.sol";
import {VM} from "../Vm.sol";

contract SumTreeTest {
    bytes32[] internal hashes;
    uint64[] internal sums;

    function test_DepthIsTheCeilingOfTheLogarithm() external pure {
        uint8[10] memory depths = [0, 1, 2, 2, 3, 3, 3, 3, 4, 4];
        for (uint256 count = 1; count <= depths.length; ++count) {
            require(SumTree.depth(count) == depths[count - 1], VM.toString(count));
        }
        require(SumTree.depth(1 << 20) == 20 && SumTree.depth((1 << 20) + 1) == 21, "2^20");
    }

    function test_OneLeafIsItsOwnRoot() external {
        _plant(1);
        (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
        require(root == hashes[0] && sum == sums[0], "root");
        require(_opens(root, sum, 1, 0), "opens");
    }

    function testFuzz_EveryLeafOpensAtItsIndexOnly(uint256 seed) external {
        uint256 count = 1 + seed % 20;
        _plant(count);
        (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
        for (uint256 i = 0; i < count; ++i) {
            require(_opens(root, sum, count, i), "opens");
            (bytes32[] memory h, uint64[] memory s) = _path(i);
            for (uint256 j = 0; j < 40; ++j) {
                bool opens = SumTree.verify(root, sum, count, j, hashes[i], sums[i], h, s);
                require(opens == (i == j), "at its index only");
            }
        }
    }

    function testFuzz_NothingChangedOpens(uint256 seed, uint64 delta) external {
        uint256 count = 2 + seed % 20;
        uint256 i = (seed >> 8) % count;
        VM.assume(delta != 0);
        _plant(count);
        (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
        (bytes32[] memory h, uint64[] memory s) = _path(i);
        uint64 wrong;
        unchecked {
            wrong = sums[i] + delta;
        }
        require(!SumTree.verify(root, sum, count, i, hashes[i], wrong, h, s), "price");
        require(!SumTree.verify(root, sum, count, i, root, sums[i], h, s), "leaf");
        uint256 level = (seed >> 16) % h.length;
        unchecked {
            s[level] += delta;
        }
        require(!SumTree.verify(root, sum, count, i, hashes[i], sums[i], h, s), "sibling sum");
    }

    function test_APathOfAnotherLengthDoesNotOpen() external {
        _plant(4);
        (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
        (bytes32[] memory h, uint64[] memory s) = _path(0);
        require(SumTree.verify(root, sum, 4, 0, hashes[0], sums[0], h, s), "as planted");
        require(!SumTree.verify(root, sum, 2, 0, hashes[0], sums[0], h, s), "count too small");
        require(!SumTree.verify(root, sum, 5, 0, hashes[0], sums[0], h, s), "count too large");
        require(!SumTree.verify(root, sum, 0, 0, hashes[0], sums[0], h, s), "no leaves");
    }

    /// @dev A lane with count 1 whose root is an inner node would let a leaf hide where no index
    /// reaches it.
    function test_ALeafCannotHideBelowALaneOfOne() external {
        _plant(2);
        (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
        (bytes32[] memory h, uint64[] memory s) = _path(1);
        require(!SumTree.verify(root, sum, 1, 1, hashes[1], sums[1], h, s), "hidden leaf");
        require(!SumTree.verify(root, sum, 1, 0, hashes[0], sums[0], h, s), "any leaf");
    }

    function test_PaddingOpensOnlyAsZero() external {
        _plant(3);
        (bytes32 root, uint64 sum) = SumTree.root(hashes, sums);
        hashes.push(0);
        sums.push(0);
        (bytes32[] memory h, uint64[] memory s) = _path(3);
        require(SumTree.verify(root, sum, 3, 3, 0, 0, h, s), "as zero");
        require(!SumTree.verify(root, sum, 3, 7, 0, 0, h, s), "at no second index");
        // A fourth leaf in a tree that says it has three.
        hashes[3] = keccak256("hidden");
        sums[3] = 1;
        (root, sum) = SumTree.root(hashes, sums);
        require(!SumTree.verify(root, sum, 3, 3, hashes[3], sums[3], h, s), "as a leaf");
        require(SumTree.verify(root, sum, 4, 3, hashes[3], sums[3], h, s), "but for the count");
    }

    function test_SumsBeyond64BitsDoNotOpen() external {
        bytes32[] memory h = new bytes32[](1);
        uint64[] memory s = new uint64[](1);
        (h[0], s[0]) = (keccak256("b"), type(uint64).max);
        bytes32 root = SumTree.node(keccak256("a"), 1, h[0], s[0]);
        require(!SumTree.verify(root, 0, 2, 0, keccak256("a"), 1, h, s), "wraps to zero");
        _plant(2);
        (sums[0], sums[1]) = (1, type(uint64).max);
        VM.expectRevert();
        this.computeRoot();
    }

    function test_RevertWhen_ThereAreNoLeaves() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadLeaves.selector, 1, 0));
        this.computeRoot();
        hashes.push(0);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadLeaves.selector, 1, 0));
        this.computeRoot();
    }

    /* INTERNAL */

    /// @dev External, so that a revert can be expected.
    function computeRoot() external view returns (bytes32, uint64) {
        return SumTree.root(hashes, sums);
    }

    function _plant(uint256 count) internal {
        delete hashes;
        delete sums;
        for (uint256 i = 0; i < count; ++i) {
            hashes.push(keccak256(abi.encode("leaf", i)));
            sums.push(uint64(1000 + i));
        }
    }

    function _opens(bytes32 rootHash, uint64 rootSum, uint256 count, uint256 index)
        internal
        view
        returns (bool)
    {
        (bytes32[] memory h, uint64[] memory s) = _path(index);
        return SumTree.verify(rootHash, rootSum, count, index, hashes[index], sums[index], h, s);
    }

    /// @dev Sibling of each level, found as the roots of the neighboring subtrees.
    function _path(uint256 index) internal view returns (bytes32[] memory h, uint64[] memory s) {
        uint256 levels = SumTree.depth(hashes.length);
        h = new bytes32[](levels);
        s = new uint64[](levels);
        for (uint256 level = 0; level < levels; ++level) {
            (h[level], s[level]) = _subtree(((index >> level) ^ 1) << level, level);
        }
    }

    function _subtree(uint256 first, uint256 level) internal view returns (bytes32, uint64) {
        if (level == 0) {
            return first < hashes.length ? (hashes[first], sums[first]) : (bytes32(0), uint64(0));
        }
        (bytes32 lh, uint64 ls) = _subtree(first, level - 1);
        (bytes32 rh, uint64 rs) = _subtree(first + (1 << (level - 1)), level - 1);
        return (SumTree.node(lh, ls, rh, rs), ls + rs);
    }
}
