// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {SumTree} from "../../src/libraries/SumTree.sol";
import {Trees} from "../Trees.sol";
import {VM} from "../Vm.sol";

contract SumTreeTest {
    bytes32[] internal hashes;
    uint64[] internal sums;

    function test_DepthIsTheCeilingOfTheLogarithm() external pure {
        uint8[10] memory depths = [0, 1, 2, 2, 3, 3, 3, 3, 4, 4];
        for (uint256 count = 1; count <= depths.length; ++count) {
            require(SumTree.depth(count) == depths[count - 1], VM.toString(count));
        }
        require(SumTree.depth(0) == 0, "0");
        require(SumTree.depth(1 << 20) == 20 && SumTree.depth((1 << 20) + 1) == 21, "2^20");
        require(SumTree.depth(type(uint32).max) == 32, "2^32 - 1");
    }

    function test_OneLeafIsItsOwnRoot() external {
        _plant(1);
        (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
        require(root == hashes[0] && sum == sums[0], "root");
        require(_opens(root, sum, 0, hashes[0], sums[0], 0, 0), "opens");
    }

    /// @dev Climbed and added up by another way than the tree was built.
    function testFuzz_TheRootIsTheJoinOfItsHalves(uint256 seed) external {
        uint256 count = 2 + seed % 20;
        _plant(count);
        (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
        uint256 half = SumTree.depth(count) - 1;
        (bytes32 lh, uint64 ls) = _subtree(0, half);
        (bytes32 rh, uint64 rs) = _subtree(1 << half, half);
        require(root == keccak256(abi.encodePacked(bytes1(0x01), lh, ls, rh, rs)), "root");
        require(sum == ls + rs, "sum");
    }

    function testFuzz_EveryLeafOpensAtItsIndexOnly(uint256 seed) external {
        uint256 count = 1 + seed % 20;
        _plant(count);
        (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
        uint256 width = 1 << SumTree.depth(count);
        for (uint256 i = 0; i < count; ++i) {
            for (uint256 j = 0; j < width; ++j) {
                bool opens = _opens(root, sum, i, hashes[i], sums[i], j, 0);
                require(opens == (i == j), "at its index only");
            }
        }
    }

    function testFuzz_NothingChangedOpens(uint256 seed, uint64 delta) external {
        uint256 count = 2 + seed % 20;
        uint256 i = (seed >> 8) % count;
        VM.assume(delta != 0);
        _plant(count);
        (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
        uint64 wrong;
        unchecked {
            wrong = sums[i] + delta;
        }
        require(!_opens(root, sum, i, hashes[i], wrong, i, 0), "price");
        require(!_opens(root, sum, i, root, sums[i], i, 0), "leaf");
        require(!_opens(root, sum, i, hashes[i], sums[i], i, delta), "sibling sum");
    }

    function test_PaddingOpensOnlyAsZero() external {
        _plant(3);
        (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
        require(_opens(root, sum, 3, 0, 0, 3, 0), "as zero");
        require(!_opens(root, sum, 3, 0, 1, 3, 0), "with money");
        require(!_opens(root, sum, 3, keccak256("hidden"), 0, 3, 0), "as a leaf");
    }

    /// @dev A sum that passed 64 bits is hashed cut but kept whole, and so equals no amount.
    function test_SumsBeyond64BitsDoNotOpen() external view {
        bytes32[] memory h = new bytes32[](2);
        uint64[] memory s = new uint64[](2);
        (h[0], s[0]) = (keccak256("b"), type(uint64).max);
        (h[1], s[1]) = (keccak256("c"), 7);
        bytes32 low = SumTree.node(keccak256("a"), 1, h[0], s[0]);
        SumTree.Node memory top = SumTree.Node({hash: keccak256("a"), sum: 1});
        SumTree.Node memory node = this.climb(top, 0, h, s);
        require(node.hash == SumTree.node(low, 0, h[1], s[1]), "hashed cut");
        require(node.sum == uint256(type(uint64).max) + 8, "kept whole");
    }

    function test_ClimbingStartsWhereItIsTold() external {
        _plant(4);
        (bytes32[] memory h, uint64[] memory s) = Trees.path(hashes, sums, 2);
        SumTree.Node memory top = SumTree.Node({hash: hashes[2], sum: sums[2]});
        SumTree.Node memory half = this.climbSome(top, 2, 1, h, s, 0);
        SumTree.Node memory whole = this.climbSome(half, 1, 1, h, s, 1);
        (bytes32 root, uint64 sum) = Trees.root(hashes, sums);
        require(whole.hash == root && whole.sum == sum, "in two steps");
        require(this.climbSome(top, 2, 0, h, s, 0).hash == hashes[2], "in none");
    }

    /* INTERNAL */

    /// @dev External, because paths are read from calldata.
    function climb(
        SumTree.Node memory top,
        uint256 index,
        bytes32[] calldata h,
        uint64[] calldata s
    ) external pure returns (SumTree.Node memory) {
        SumTree.climb(top, index, h.length, h, s, 0);
        return top;
    }

    /// @dev External, because paths are read from calldata.
    function climbSome(
        SumTree.Node memory top,
        uint256 index,
        uint256 levels,
        bytes32[] calldata h,
        uint64[] calldata s,
        uint256 start
    ) external pure returns (SumTree.Node memory) {
        SumTree.climb(top, index, levels, h, s, start);
        return top;
    }

    function _plant(uint256 count) internal {
        delete hashes;
        delete sums;
        for (uint256 i = 0; i < count; ++i) {
            hashes.push(keccak256(abi.encode("leaf", i)));
            sums.push(uint64(1000 + i));
        }
    }

    /// @dev Whether (hash, amount) opens at `index` with the path of `planted`, one of whose sums is
    /// `delta` more.
    function _opens(
        bytes32 root,
        uint64 sum,
        uint256 planted,
        bytes32 hash,
        uint64 amount,
        uint256 index,
        uint64 delta
    ) internal view returns (bool) {
        (bytes32[] memory h, uint64[] memory s) = Trees.path(hashes, sums, planted);
        if (delta != 0) {
            unchecked {
                s[s.length - 1] += delta;
            }
        }
        SumTree.Node memory top = SumTree.Node({hash: hash, sum: amount});
        top = this.climb(top, index, h, s);
        return top.hash == root && top.sum == sum;
    }

    function _subtree(uint256 first, uint256 level) internal view returns (bytes32, uint64) {
        if (level == 0) {
            return first < hashes.length ? (hashes[first], sums[first]) : (bytes32(0), uint64(0));
        }
        (bytes32 lh, uint64 ls) = _subtree(first, level - 1);
        (bytes32 rh, uint64 rs) = _subtree(first + (1 << (level - 1)), level - 1);
        return (keccak256(abi.encodePacked(bytes1(0x01), lh, ls, rh, rs)), ls + rs);
    }
}
