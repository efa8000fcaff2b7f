// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {World} from "./World.sol";

/// @notice Writes batches of several lanes and lines, right ones and wrong ones, with their documents.
abstract contract Drafts is World {
    uint32 internal constant UNITS = 4;
    uint32 internal constant CHECKS = 2;

    /* DOCUMENTS */

    function _newOrder(address requester, address coordinator) internal returns (uint32 id) {
        orders.push(_order(requester, coordinator));
        return uint32(orders.length - 1);
    }

    /// @dev What the provider of the line signed, or would have.
    function _receiptOf(Line memory line) internal view returns (Hashing.Receipt memory) {
        return Hashing.Receipt({
            orderHash: Hashing.hash(orders[line.order]),
            unit: line.unit,
            provider: line.provider,
            resultHash: keccak256(abi.encode(line.isFalse)),
            price: line.kind == Kind.WORK ? line.price : UNIT_PRICE,
            finishedAt: orders[line.order].settleBy
        });
    }

    function _verdictOn(Hashing.Receipt memory receipt, uint8 verdict)
        internal
        pure
        returns (Hashing.Attestation memory)
    {
        return Hashing.Attestation({
            receiptHash: Hashing.hash(receipt),
            verdict: verdict,
            evidenceHash: keccak256("evidence"),
            issuedAt: receipt.finishedAt
        });
    }

    function _leafOf(Line memory line) internal view returns (Hashing.Leaf memory leaf) {
        leaf.price = line.price;
        if (line.flaw == Flaw.NO_ORDER) return leaf;
        Hashing.Receipt memory receipt = _receiptOf(line);
        leaf.orderHash = receipt.orderHash;
        if (line.kind == Kind.WORK) {
            leaf.line = line.flaw == Flaw.NO_LINE ? UNITS + CHECKS + 1 : line.unit;
            leaf.evidenceHash = Hashing.hash(receipt);
        } else if (line.kind == Kind.CHECK) {
            leaf.line = UNITS + line.unit;
            leaf.evidenceHash = Hashing.hash(_verdictOn(receipt, 1));
        } else {
            leaf.line = UNITS + CHECKS;
            leaf.evidenceHash = Hashing.feeEvidence(leaf.orderHash);
        }
    }

    /// @dev The best that anybody can show for a line.
    function _evidenceOf(Spot memory spot) internal view returns (IDisputes.Evidence memory e) {
        Line memory line = _line(spot);
        if (line.flaw == Flaw.NO_ORDER) return e;
        e.order = orders[line.order];
        address signer = line.flaw == Flaw.UNSIGNED ? _other(e.order.requester) : e.order.requester;
        e.orderSignature = _sign(signer, Hashing.hash(e.order));
        if (line.kind == Kind.FEE) return e;
        e.receipt = _receiptOf(line);
        signer = line.flaw == Flaw.NO_RECEIPT ? _other(line.provider) : line.provider;
        e.receiptSignature = _sign(signer, Hashing.hash(e.receipt));
        if (line.kind == Kind.WORK) return e;
        e.attestation = _verdictOn(e.receipt, 1);
        e.attestationSignature = _sign(_laneAt(spot).payee, Hashing.hash(e.attestation));
    }

    /// @dev A double has all its evidence; what is wrong is that it is not the first.
    function _isAnswerable(Line memory line) internal pure returns (bool) {
        return line.flaw == Flaw.NONE || line.flaw == Flaw.DOUBLE;
    }

    function _isProvable(Flaw flaw) internal pure returns (bool) {
        return flaw >= Flaw.PRICE && flaw <= Flaw.FEE;
    }

    /* BATCHES */

    /// @dev One to three lanes; `flaw` is put into the first of them.
    function _postLines(address coordinator, uint256 seed, Flaw flaw, Spot memory first)
        internal
        returns (uint256 id)
    {
        id = posts.length;
        uint16 count = uint16(1 + _mix(seed, "lanes") % 3);
        Draft memory draft;
        draft.requesters = new address[](count);
        draft.payees = new address[](count);
        draft.lanes = new LaneDraft[](count);
        for (uint16 i = 0; i < count; ++i) {
            uint256 salt = _mix(seed, "lane") ^ i;
            if (i == 0 && flaw == Flaw.DOUBLE) _addDouble(id, first);
            else _addLane(id, i, coordinator, salt, i == 0 ? flaw : Flaw.NONE);
            Lane storage lane = lanes[id][i];
            (draft.requesters[i], draft.payees[i]) = (lane.requester, lane.payee);
            Hashing.Leaf[] memory leaves = new Hashing.Leaf[](lane.size);
            for (uint32 j = 0; j < lane.size; ++j) {
                leaves[j] = _leafOf(lines[id][i][j]);
                lane.amount += leaves[j].price;
            }
            draft.lanes[i] = LaneDraft({requester: i, payee: i, leaves: leaves});
        }
        _send(coordinator, draft, flaw == Flaw.HIDDEN);
    }

    function _send(address coordinator, Draft memory draft, bool isHiding) private {
        uint256 id = posts.length;
        for (uint16 i = 0; i < draft.lanes.length; ++i) {
            // Twice the batch, so that lanes of one requester are covered together.
            _ensureEscrow(lanes[id][i].requester, 3 * uint256(lanes[id][i].amount) + 100e6);
        }
        IDisputes.Batch memory batch = _makeBatch(coordinator, draft);
        // The tree holds a line more than the lane admits.
        if (isHiding) batch.lanes[7] = bytes1(uint8(batch.lanes[7]) - 1);
        VM.prank(coordinator);
        batch.seq = settlement.postBatch(
            NEVER, batch.dataHash, batch.root, batch.requesters, batch.payees, batch.lanes
        );
        batch.postedAt = uint64(VM.getBlockTimestamp());
        _record(batch, draft, false);
    }

    function _record(IDisputes.Batch memory batch, Draft memory draft, bool isDirect) internal {
        Post storage post = posts.push();
        post.coordinator = batch.coordinator;
        post.seq = batch.seq;
        post.postedAt = batch.postedAt;
        post.lanes = uint16(draft.lanes.length);
        post.isDirect = isDirect;
        post.batch = abi.encode(batch);
        post.draft = abi.encode(draft);
    }

    function _addLane(uint256 id, uint16 i, address coordinator, uint256 salt, Flaw flaw) private {
        Lane storage lane = lanes[id][i];
        lane.requester = parties[_mix(salt, "requester") % 2];
        Kind kind = flaw == Flaw.NONE ? Kind(_mix(salt, "kind") % 3) : Kind.WORK;
        uint256 size = 1 + _mix(salt, "size") % (kind == Kind.WORK ? 4 : kind == Kind.CHECK ? 2 : 1);
        if (flaw == Flaw.HIDDEN) size = 4;
        address provider = parties[4 + _mix(salt, "provider") % 3];
        lane.payee = kind == Kind.WORK
            ? provider
            : kind == Kind.CHECK ? parties[7 + _mix(salt, "verifier") % 6] : coordinator;
        if (kind == Kind.CHECK) _ensureStake(lane.payee);
        (lane.size, lane.count) = (uint32(size), uint32(size));
        if (flaw == Flaw.HIDDEN) --lane.count;
        uint32 order = _newOrder(lane.requester, coordinator);
        for (uint32 j = 0; j < size; ++j) {
            Line storage line = lines[id][i][j];
            (line.order, line.unit, line.kind) = (order, j, kind);
            uint64 most = kind == Kind.WORK ? UNIT_PRICE : kind == Kind.CHECK ? CHECK_PRICE : FEE;
            line.price = uint64(1 + _mix(salt, "price") % most);
            line.provider = provider;
            line.isFalse = !isHonest[provider] && _mix(salt, "false") % 2 == 0;
        }
        uint32 place = flaw == Flaw.HIDDEN ? lane.count : uint32(_mix(salt, "flaw") % size);
        if (flaw != Flaw.NONE) _spoil(lines[id][i][place], lane, coordinator, flaw);
    }

    function _spoil(Line storage line, Lane storage lane, address coordinator, Flaw flaw) private {
        line.flaw = flaw;
        if (flaw == Flaw.HIDDEN || flaw == Flaw.NO_LINE || flaw == Flaw.NO_ORDER) return;
        if (flaw == Flaw.PRICE) line.price = UNIT_PRICE + line.price;
        line.order = _newOrder(lane.requester, coordinator);
        Hashing.Order storage order = orders[line.order];
        if (flaw == Flaw.REQUESTER) order.requester = _other(lane.requester);
        else if (flaw == Flaw.COORDINATOR) order.coordinator = _other(coordinator);
        else if (flaw == Flaw.PROVIDER) order.provider = _other(lane.payee);
        else if (flaw == Flaw.LATE) order.settleBy = uint64(VM.getBlockTimestamp()) - 1;
        else if (flaw == Flaw.FEE) (line.kind, line.price) = (Kind.FEE, FEE);
    }

    /// @dev Pays a line again that this coordinator has paid before.
    function _addDouble(uint256 id, Spot memory first) private {
        Line storage again = lines[id][0][0];
        Line storage line = _line(first);
        line.isDoubled = true;
        (again.order, again.unit, again.kind) = (line.order, line.unit, line.kind);
        (again.price, again.provider, again.isFalse) = (line.price, line.provider, line.isFalse);
        (again.flaw, again.first) = (Flaw.DOUBLE, first);
        Lane storage lane = lanes[id][0];
        lane.requester = _laneAt(first).requester;
        lane.payee = _laneAt(first).payee;
        (lane.size, lane.count) = (1, 1);
    }
}
