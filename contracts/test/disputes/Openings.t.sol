// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {SumTree} from "../../src/libraries/SumTree.sol";
import {Trees} from "../Trees.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice What opens a leaf of a batch, and what hides in a batch that opens nothing.
contract OpeningsTest is Market {
    /* THE BATCH */

    function test_RevertWhen_AFieldOfTheBatchIsChanged() external {
        _postSheet();
        bytes32 posted = settlement.batchOf(coordinator, 0);
        for (uint256 field = 0; field < 8; ++field) {
            IDisputes.Batch memory changed = abi.decode(abi.encode(batch), (IDisputes.Batch));
            if (field == 0) changed.postedAt -= 1;
            if (field == 1) changed.dataHash = keccak256("other data");
            if (field == 2) changed.root = keccak256("other root");
            if (field == 3) changed.requesters[0] = helper;
            if (field == 4) changed.payees[2] = helper;
            if (field == 5) changed.lanes[47] ^= 0x01;
            if (field == 6) changed.payees = _two(provider, verifier);
            if (field == 7) changed.lanes = bytes.concat(batch.lanes, hex"00");
            _refuseBatch(changed, posted);
        }
    }

    function test_RevertWhen_ThereIsNoSuchBatch() external {
        _postSheet();
        IDisputes.Batch memory changed = abi.decode(abi.encode(batch), (IDisputes.Batch));
        changed.seq = 1;
        _refuseBatch(changed, 0);
        changed.seq = 0;
        changed.coordinator = helper;
        _refuseBatch(changed, 0);
        changed.coordinator = address(disputes);
        _refuseBatch(changed, 0);
    }

    /* INDICES */

    function test_EveryIndexOfALaneOpensAndNoMore() external {
        _postSheet();
        for (uint32 i = 0; i < 4; ++i) {
            _must(helper, _answer(_askWithheld(WORK, i)));
        }
        bytes memory reason = _error(ErrorsLib.BadIndex.selector, 4, 4);
        _refuse(watcher, abi.encodeCall(disputes.challengeWithheld, (batch, WORK, 4)), reason);
        reason = _error(ErrorsLib.BadIndex.selector, 4, type(uint32).max);
        _refuse(
            watcher,
            abi.encodeCall(disputes.challengeWithheld, (batch, WORK, type(uint32).max)),
            reason
        );
        // A lane of one leaf has one index, and a path of its own length zero.
        reason = _error(ErrorsLib.BadIndex.selector, 1, 1);
        _refuse(watcher, abi.encodeCall(disputes.challengeWithheld, (batch, FEES, 1)), reason);
    }

    function test_RevertWhen_TheIndexIsBeyondTheWidthOfAnOpening() external {
        _postSheet();
        IDisputes.Opening memory opening = _opening(WORK, 0);
        // Index 4 has the same path as index 0: without the bound, one leaf would have two places.
        opening.index = 4;
        _refuseOpening(opening, _error(ErrorsLib.BadIndex.selector, 4, 4));
    }

    function test_RevertWhen_TheLaneIsBeyondTheBatch() external {
        _postSheet();
        IDisputes.Opening memory opening = _opening(FEES, 0);
        opening.lane = 3;
        _refuseOpening(opening, _error(ErrorsLib.BadIndex.selector, 3, 3));
        _refuse(
            watcher,
            abi.encodeCall(disputes.challengeWithheld, (batch, 3, 0)),
            _error(ErrorsLib.BadIndex.selector, 3, 3)
        );
    }

    function test_RevertWhen_TheLeafIsOfAnotherPlace() external {
        _postSheet();
        IDisputes.Opening memory opening = _opening(WORK, 0);
        opening.index = 1;
        _refuseForged(opening);
        opening = _opening(CHECKS, 0);
        opening.index = 1;
        _refuseForged(opening);
        // A leaf of another lane, whose path is as long.
        sheet[WORK].pop();
        sheet[WORK][0].price = sheet[WORK][1].price = CHECK_PRICE;
        _postSheet();
        opening = _opening(CHECKS, 0);
        opening.lane = WORK;
        _refuseForged(opening);
    }

    /* PATHS */

    function test_RevertWhen_ThePathHasAnotherLength() external {
        _postSheet();
        IDisputes.Opening memory good = _opening(WORK, 0);
        assertEq(good.hashes.length, 4, "two levels of leaves, two of lanes");
        uint256[2] memory lengths = [uint256(3), 5];
        for (uint256 i = 0; i < lengths.length; ++i) {
            IDisputes.Opening memory opening = _opening(WORK, 0);
            opening.hashes = new bytes32[](lengths[i]);
            _refuseOpening(opening, _error(ErrorsLib.BadPathLength.selector, 4, lengths[i]));
            opening.hashes = good.hashes;
            opening.sums = new uint64[](lengths[i]);
            _refuseOpening(opening, _error(ErrorsLib.BadPathLength.selector, 4, lengths[i]));
        }
    }

    function testFuzz_ALeafOpensWithItsOwnPathOnly(uint256 salt) external {
        _postSheet();
        uint32 index = uint32(salt % 3);
        IDisputes.Opening memory opening = _opening(WORK, index);
        uint256 level = (salt >> 8) % opening.hashes.length;
        uint256 kind = (salt >> 16) % 5;
        if (kind == 0) opening.hashes[level] ^= bytes32(uint256(1) << ((salt >> 24) % 256));
        if (kind == 1) opening.sums[level] ^= uint64(1) << uint64((salt >> 24) % 64);
        if (kind == 2) opening.leaf.price ^= uint64(1) << uint64((salt >> 24) % 64);
        if (kind == 3) opening.leaf.line ^= uint32(1) << uint32((salt >> 24) % 32);
        if (kind == 4) {
            opening.leaf.evidenceHash ^= bytes32(uint256(1) << ((salt >> 24) % 256));
        }
        _refuseForged(opening);
    }

    /// @notice An inner node is no leaf: its bytes begin with another tag, and its path is too short.
    function test_RevertWhen_AnInnerNodeIsShownAsALeaf() external {
        _postSheet();
        (bytes32[] memory hashes, uint64[] memory sums) = _hashLeaves(sheet[WORK]);
        (bytes32[][] memory h, uint64[][] memory s) = Trees.build(hashes, sums);
        IDisputes.Opening memory opening = _opening(WORK, 0);
        // The node above leaves 0 and 1, one level higher: the path would be a level short.
        bytes32[] memory cut = new bytes32[](3);
        uint64[] memory cutSums = new uint64[](3);
        for (uint256 i = 0; i < 3; ++i) {
            (cut[i], cutSums[i]) = (opening.hashes[i + 1], opening.sums[i + 1]);
        }
        opening.leaf = Hashing.Leaf(h[1][0], 0, h[0][1], s[1][0]);
        (opening.hashes, opening.sums) = (cut, cutSums);
        _refuseOpening(opening, _error(ErrorsLib.BadPathLength.selector, 4, 3));
    }

    function test_LeavesAndNodesHaveTags() external pure {
        // A node's preimage is 81 bytes and a leaf's 77; and the first byte differs as well.
        bytes32 hash = keccak256("hash");
        bytes32 node = SumTree.node(hash, 1, hash, 2);
        assertEq(
            node, keccak256(abi.encodePacked(hex"01", hash, uint64(1), hash, uint64(2))), "node"
        );
        assertEq(
            Hashing.hash(Hashing.Leaf(hash, 1, hash, 2)),
            keccak256(abi.encodePacked(hex"00", hash, uint32(1), hash, uint64(2))),
            "leaf"
        );
    }

    /* PADDING */

    function test_PaddingOpensAsTheEmptyLeafOnly() external {
        _postSheet();
        _askWithheld(WORK, 3);
        for (uint256 field = 0; field < 4; ++field) {
            IDisputes.Opening memory opening = _opening(WORK, 3);
            if (field == 0) opening.leaf.orderHash = bytes32(uint256(1));
            if (field == 1) opening.leaf.line = 1;
            if (field == 2) opening.leaf.evidenceHash = bytes32(uint256(1));
            if (field == 3) opening.leaf.price = 1;
            _refuseOpening(opening, _error(ErrorsLib.BadIndex.selector, 3, 3));
        }
    }

    /// @notice The bug of a first version: a leaf beyond the count that no index reached.
    function test_ALeafHiddenBeyondTheCountVoidsItsLane() external {
        Hashing.Leaf memory hidden = sheet[WORK][0];
        hidden.price = 1_000e6;
        sheet[WORK].push(hidden);
        _postCounting(WORK, 3);
        Asked memory asked = _askWithheld(WORK, 3);
        _refuseAnswer(asked, _error(ErrorsLib.BadIndex.selector, 3, 3));
        IDisputes.Evidence memory none;
        IDisputes.Opening memory asPadding = _opening(WORK, 3);
        delete asPadding.leaf;
        _refuseOpeningAs(asked, asPadding, none);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        uint256 kept = _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "all of it comes back");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "slashed");
    }

    /// @notice Leaves that the count promises and the tree does not have.
    function test_ALeafThatIsCountedButNotThereVoidsItsLane() external {
        _postCounting(WORK, 4);
        Asked memory asked = _askWithheld(WORK, 3);
        IDisputes.Evidence memory none;
        // It is not padding by the count, so the empty leaf is hashed, and that is not there.
        _refuseOpeningAs(asked, _opening(WORK, 3), none);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        assertEq(_credit(provider), 0, "void");
    }

    /* SUMS */

    function test_ALaneThatClaimsMoreThanItsLeavesOpensNowhere() external {
        _postWithAmount(WORK, uint64(_amount(WORK)) + 1);
        _refuseForged(_opening(WORK, 0));
        // Other lanes do not open either: the total is that of the lanes, not of the tree.
        _refuseForged(_opening(FEES, 0));
    }

    function test_ALaneThatClaimsLessThanItsLeavesOpensNowhere() external {
        uint64 less = uint64(_amount(WORK)) - 1;
        _postWithAmount(WORK, less);
        _refuseForged(_opening(WORK, 0));
        Asked memory asked = _askWithheld(WORK, 0);
        asked.challenge.place.laneAmount = less;
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        assertEq(_credit(provider), 0, "void");
        assertEq(settlement.held(), 0, "held");
    }

    /// @notice Two lanes whose amounts were exchanged add up to the total, and are still both wrong.
    function test_LanesThatExchangeAmountsOpenNowhere() external {
        IDisputes.Batch memory made = _makeBatch(coordinator, _sheetDraft());
        uint64[] memory amounts = new uint64[](3);
        (amounts[0], amounts[1], amounts[2]) = (uint64(_amount(CHECKS)), uint64(_amount(WORK)), FEE);
        _postRaw(made, _lanesOf(amounts));
        _refuseForged(_opening(WORK, 0));
        _refuseForged(_opening(CHECKS, 0));
        // The third is right by itself and opens.
        _must(helper, _answer(_askLeaf(FEES, 0)));
    }

    function test_ALaneHiddenBesideTheOthersOpensNothing() external {
        // Four lanes in the tree, three in the bytes: the fourth would be padding.
        Draft memory draft = _sheetDraft();
        LaneDraft[] memory lanes = new LaneDraft[](4);
        for (uint256 i = 0; i < 3; ++i) {
            lanes[i] = draft.lanes[i];
        }
        lanes[3] = draft.lanes[0];
        draft.lanes = lanes;
        IDisputes.Batch memory made = _makeBatch(coordinator, draft);
        bytes memory shown = _makeBatch(coordinator, _sheetDraft()).lanes;
        _postRaw(made, shown);
        for (uint16 lane = 0; lane < 3; ++lane) {
            IDisputes.Opening memory opening = _open(draft, lane, 0);
            _refuseForged(opening);
        }
    }

    /// @notice Prices whose sum passes 64 bits, and by that would equal what the lane moved.
    function test_SumsThatOverflowOpenNowhere() external {
        uint64 small = 10;
        bytes32[] memory hashes = new bytes32[](2);
        uint64[] memory sums = new uint64[](2);
        Hashing.Leaf memory huge = sheet[WORK][0];
        Hashing.Leaf memory rest = sheet[WORK][1];
        huge.price = type(uint64).max;
        rest.price = small + 1;
        (hashes[0], hashes[1]) = (Hashing.hash(huge), Hashing.hash(rest));
        (sums[0], sums[1]) = (huge.price, rest.price);
        IDisputes.Batch memory made;
        made.coordinator = coordinator;
        made.dataHash = DATA;
        made.root = SumTree.node(hashes[0], sums[0], hashes[1], sums[1]);
        made.requesters = _one(requester);
        made.payees = _one(provider);
        // (2^64 - 1) + 11 is 10 in 64 bits.
        _postRaw(made, _lane(0, 0, 2, small));
        IDisputes.Opening memory opening;
        opening.leaf = huge;
        opening.hashes = new bytes32[](1);
        opening.sums = new uint64[](1);
        (opening.hashes[0], opening.sums[0]) = (hashes[1], sums[1]);
        _refuseForged(opening);
        opening.leaf = rest;
        opening.index = 1;
        (opening.hashes[0], opening.sums[0]) = (hashes[0], sums[0]);
        _refuseForged(opening);
    }

    /// @notice As above, one level higher: lanes whose amounts overflow in the tree.
    function test_TotalsThatOverflowOpenNowhere() external {
        Hashing.Leaf memory leaf = sheet[FEES][0];
        uint64 most = type(uint64).max;
        IDisputes.Opening memory opening;
        opening.leaf = leaf;
        opening.hashes = new bytes32[](2);
        opening.sums = new uint64[](2);
        (opening.hashes[0], opening.hashes[1]) = (keccak256("lane 1"), keccak256("lanes 2 and 3"));
        // Together with the fee they make the fee again, in 64 bits.
        (opening.sums[0], opening.sums[1]) = (most, 1);
        bytes32 left = SumTree.node(Hashing.hash(leaf), leaf.price, opening.hashes[0], most);
        IDisputes.Batch memory made;
        made.coordinator = coordinator;
        made.dataHash = DATA;
        made.root = SumTree.node(left, leaf.price - 1, opening.hashes[1], 1);
        made.requesters = _one(requester);
        made.payees = _one(coordinator);
        bytes memory empty = _lane(0, 0, 1, 0);
        _postRaw(made, bytes.concat(_lane(0, 0, 1, leaf.price), empty, empty, empty));
        _refuseForged(opening);
    }

    /* INTERNAL */

    function _refuseBatch(IDisputes.Batch memory changed, bytes32 posted) internal {
        bytes memory reason = abi.encodeWithSelector(
            ErrorsLib.UnknownBatch.selector,
            posted,
            keccak256(
                abi.encode(
                    changed.postedAt,
                    changed.dataHash,
                    changed.root,
                    changed.requesters,
                    changed.payees,
                    changed.lanes
                )
            )
        );
        IDisputes.Opening memory opening = _opening(WORK, 0);
        _refuse(watcher, abi.encodeCall(disputes.challengeLeaf, (changed, opening)), reason);
        _refuse(watcher, abi.encodeCall(disputes.challengeWithheld, (changed, WORK, 0)), reason);
        _refuse(helper, abi.encodeCall(disputes.proveBadLeaf, (changed, opening, order)), reason);
        IDisputes.Evidence memory none;
        _refuse(
            helper,
            abi.encodeCall(disputes.proveDouble, (batch, opening, changed, opening, none)),
            reason
        );
        _refuse(
            helper,
            abi.encodeCall(disputes.proveDouble, (changed, opening, batch, opening, none)),
            reason
        );
    }

    function _refuseOpening(IDisputes.Opening memory opening, bytes memory reason) internal {
        _refuse(watcher, abi.encodeCall(disputes.challengeLeaf, (batch, opening)), reason);
        _refuse(helper, abi.encodeCall(disputes.proveBadLeaf, (batch, opening, order)), reason);
    }

    /// @dev Refused because it leads to another root or sum, whichever.
    function _refuseForged(IDisputes.Opening memory opening) internal {
        VM.prank(watcher);
        (bool ok, bytes memory answer) =
            address(disputes).call(abi.encodeCall(disputes.challengeLeaf, (batch, opening)));
        assertTrue(!ok, "must be refused");
        assertTrue(bytes4(answer) == ErrorsLib.BadOpening.selector, "as an opening");
    }

    function _refuseOpeningAs(
        Asked memory asked,
        IDisputes.Opening memory opening,
        IDisputes.Evidence memory evidence
    ) internal {
        (bool ok, bytes memory answer) = address(disputes)
            .call(
                abi.encodeCall(
                    disputes.respondWithheld, (asked.id, asked.challenge, batch, opening, evidence)
                )
            );
        assertTrue(!ok, "must be refused");
        assertTrue(bytes4(answer) == ErrorsLib.BadOpening.selector, "as an opening");
    }

    /// @dev Posts the sheet with another count for one lane.
    function _postCounting(uint16 lane, uint32 count) internal {
        IDisputes.Batch memory made = _makeBatch(coordinator, _sheetDraft());
        bytes memory lanes = made.lanes;
        for (uint256 i = 0; i < 4; ++i) {
            lanes[lane * 16 + 4 + i] = bytes4(count)[i];
        }
        _postRaw(made, lanes);
    }

    /// @dev Posts the sheet with another amount for one lane.
    function _postWithAmount(uint16 lane, uint64 amount) internal {
        IDisputes.Batch memory made = _makeBatch(coordinator, _sheetDraft());
        uint64[] memory amounts = new uint64[](3);
        for (uint16 i = 0; i < 3; ++i) {
            amounts[i] = i == lane ? amount : uint64(_amount(i));
        }
        _postRaw(made, _lanesOf(amounts));
    }

    function _lanesOf(uint64[] memory amounts) internal view returns (bytes memory lanes) {
        for (uint16 i = 0; i < amounts.length; ++i) {
            lanes = bytes.concat(lanes, _lane(0, i, uint32(sheet[i].length), amounts[i]));
        }
    }

    function _postRaw(IDisputes.Batch memory made, bytes memory lanes) internal {
        made.lanes = lanes;
        VM.prank(coordinator);
        made.seq = settlement.postBatch(
            NEVER, made.dataHash, made.root, made.requesters, made.payees, lanes
        );
        made.postedAt = uint64(VM.getBlockTimestamp());
        batch = made;
    }
}
