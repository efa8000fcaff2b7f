// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../src/interfaces/IDisputes.sol";
import {Hashing} from "../src/libraries/Hashing.sol";
import {Fixture} from "./Fixture.sol";
import {Trees} from "./Trees.sol";
import {VM} from "./Vm.sol";

/// @notice A market whose parties hold keys: signed orders, receipts and attestations, batches of
/// many leaves, and their openings.
abstract contract Scene is Fixture {
    uint64 internal constant UNIT_PRICE = 10e6;
    uint64 internal constant CHECK_PRICE = 4e6;
    uint64 internal constant FEE = 1e6;
    uint256 internal constant ORDER_OF_CURVE =
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    /// @notice A batch as a test writes it: for each lane its parties and its leaves.
    struct Draft {
        address[] requesters;
        address[] payees;
        LaneDraft[] lanes;
    }

    struct LaneDraft {
        uint16 requester;
        uint16 payee;
        Hashing.Leaf[] leaves;
    }

    uint256 internal nextNonce;
    mapping(address => uint256) internal keys;

    /* KEYS */

    /// @dev An account that can sign.
    function _account(string memory name) internal returns (address account) {
        uint256 key = uint256(keccak256(bytes(name)));
        account = VM.addr(key);
        keys[account] = key;
    }

    function _sign(address signer, bytes32 structHash) internal view returns (bytes memory) {
        bytes32 digest =
            keccak256(abi.encodePacked(hex"1901", settlement.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = VM.sign(keys[signer], digest);
        return abi.encodePacked(r, s, v);
    }

    function _split(bytes memory signature) internal pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }

    /* DOCUMENTS */

    /// @dev Four units, two checks and a fee; open provider; settled within three days.
    function _order(address requester, address coordinator)
        internal
        returns (Hashing.Order memory)
    {
        return Hashing.Order({
            requester: requester,
            coordinator: coordinator,
            provider: address(0),
            jobHash: keccak256("job"),
            verifyHash: keccak256("verify"),
            units: 4,
            checks: 2,
            maxUnitPrice: UNIT_PRICE,
            maxCheckPrice: CHECK_PRICE,
            maxFee: FEE,
            settleBy: uint64(VM.getBlockTimestamp()) + 3 days,
            expiry: uint64(VM.getBlockTimestamp()) + 5 days,
            nonce: ++nextNonce
        });
    }

    function _receipt(Hashing.Order memory order, uint32 unit, address provider, uint64 price)
        internal
        view
        returns (Hashing.Receipt memory)
    {
        return Hashing.Receipt({
            orderHash: Hashing.hash(order),
            unit: unit,
            provider: provider,
            resultHash: keccak256(abi.encode("result", unit, provider)),
            price: price,
            finishedAt: uint64(VM.getBlockTimestamp())
        });
    }

    function _attestation(Hashing.Receipt memory receipt, uint8 verdict)
        internal
        view
        returns (Hashing.Attestation memory)
    {
        return Hashing.Attestation({
            receiptHash: Hashing.hash(receipt),
            verdict: verdict,
            evidenceHash: keccak256("evidence"),
            issuedAt: uint64(VM.getBlockTimestamp())
        });
    }

    function _workLeaf(Hashing.Receipt memory receipt) internal pure returns (Hashing.Leaf memory) {
        return Hashing.Leaf({
            orderHash: receipt.orderHash,
            line: receipt.unit,
            evidenceHash: Hashing.hash(receipt),
            price: receipt.price
        });
    }

    function _workEvidence(Hashing.Order memory order, Hashing.Receipt memory receipt)
        internal
        view
        returns (IDisputes.Evidence memory evidence)
    {
        evidence.order = order;
        evidence.orderSignature = _sign(order.requester, Hashing.hash(order));
        evidence.receipt = receipt;
        evidence.receiptSignature = _sign(receipt.provider, Hashing.hash(receipt));
    }

    /* BATCHES */

    /// @dev A draft with one requester, one payee and one lane.
    function _draft(address requester, address payee, Hashing.Leaf[] memory leaves)
        internal
        pure
        returns (Draft memory draft)
    {
        draft.requesters = _one(requester);
        draft.payees = _one(payee);
        draft.lanes = new LaneDraft[](1);
        draft.lanes[0] = LaneDraft({requester: 0, payee: 0, leaves: leaves});
    }

    function _leaves(Hashing.Leaf memory leaf) internal pure returns (Hashing.Leaf[] memory list) {
        list = new Hashing.Leaf[](1);
        list[0] = leaf;
    }

    function _post(address coordinator, Draft memory draft)
        internal
        returns (IDisputes.Batch memory batch)
    {
        batch = _makeBatch(coordinator, draft);
        VM.prank(coordinator);
        batch.seq = settlement.postBatch(
            NEVER, batch.dataHash, batch.root, batch.requesters, batch.payees, batch.lanes
        );
        batch.postedAt = uint64(VM.getBlockTimestamp());
    }

    function _makeBatch(address coordinator, Draft memory draft)
        internal
        pure
        returns (IDisputes.Batch memory batch)
    {
        batch.coordinator = coordinator;
        batch.dataHash = DATA;
        (bytes32[] memory hashes, uint64[] memory sums) = _laneRoots(draft);
        (batch.root,) = Trees.root(hashes, sums);
        batch.requesters = draft.requesters;
        batch.payees = draft.payees;
        for (uint256 i = 0; i < draft.lanes.length; ++i) {
            LaneDraft memory lane = draft.lanes[i];
            uint32 count = uint32(lane.leaves.length);
            batch.lanes = bytes.concat(
                batch.lanes, abi.encodePacked(lane.requester, lane.payee, count, sums[i])
            );
        }
    }

    function _open(Draft memory draft, uint16 lane, uint32 index)
        internal
        pure
        returns (IDisputes.Opening memory opening)
    {
        opening.lane = lane;
        opening.index = index;
        Hashing.Leaf[] memory leaves = draft.lanes[lane].leaves;
        if (index < leaves.length) opening.leaf = leaves[index];
        (bytes32[] memory hashes, uint64[] memory sums) = _hashLeaves(leaves);
        (bytes32[] memory h1, uint64[] memory s1) = Trees.path(hashes, sums, index);
        (hashes, sums) = _laneRoots(draft);
        (bytes32[] memory h2, uint64[] memory s2) = Trees.path(hashes, sums, lane);
        opening.hashes = new bytes32[](h1.length + h2.length);
        opening.sums = new uint64[](h1.length + h2.length);
        for (uint256 i = 0; i < opening.hashes.length; ++i) {
            bool isLow = i < h1.length;
            opening.hashes[i] = isLow ? h1[i] : h2[i - h1.length];
            opening.sums[i] = isLow ? s1[i] : s2[i - h1.length];
        }
    }

    /// @dev The place of a leaf, as the contract works it out.
    function _place(IDisputes.Batch memory batch, Draft memory draft, uint16 lane, uint32 index)
        internal
        pure
        returns (IDisputes.Place memory)
    {
        (, uint64[] memory sums) = _laneRoots(draft);
        return IDisputes.Place({
            coordinator: batch.coordinator,
            seq: batch.seq,
            postedAt: batch.postedAt,
            lane: lane,
            index: index,
            requester: batch.requesters[draft.lanes[lane].requester],
            payee: batch.payees[draft.lanes[lane].payee],
            laneAmount: sums[lane]
        });
    }

    function _laneRoots(Draft memory draft)
        internal
        pure
        returns (bytes32[] memory hashes, uint64[] memory sums)
    {
        hashes = new bytes32[](draft.lanes.length);
        sums = new uint64[](draft.lanes.length);
        for (uint256 i = 0; i < draft.lanes.length; ++i) {
            (bytes32[] memory h, uint64[] memory s) = _hashLeaves(draft.lanes[i].leaves);
            (hashes[i], sums[i]) = Trees.root(h, s);
        }
    }

    function _hashLeaves(Hashing.Leaf[] memory leaves)
        internal
        pure
        returns (bytes32[] memory hashes, uint64[] memory sums)
    {
        hashes = new bytes32[](leaves.length);
        sums = new uint64[](leaves.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            (hashes[i], sums[i]) = (Hashing.hash(leaves[i]), leaves[i].price);
        }
    }
}
