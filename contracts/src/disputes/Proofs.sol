// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {Hashing} from "../libraries/Hashing.sol";
import {LeafFaults} from "../libraries/LeafFaults.sol";
import {Evidences} from "./Evidences.sol";

/// @title Proofs
/// @notice Faults that signed words alone show. They need no bond and no answer.
abstract contract Proofs is Evidences {
    using Hashing for Hashing.Order;
    using Hashing for Hashing.Attestation;

    /* STORAGE */

    mapping(address verifier => mapping(bytes32 receiptHash => bool)) private _conflicts;

    /* ACTIONS */

    /// @inheritdoc IDisputes
    function proveBadLeaf(
        Batch calldata batch,
        Opening calldata opening,
        Hashing.Order calldata order
    ) external {
        Place memory place = _open(batch, opening);
        // A direct settlement was checked when it was made, and by other rules of time.
        if (_isDirect(place)) revert ErrorsLib.NoFault();
        _checkHash("order", opening.leaf.orderHash, order.hash());
        LeafFault fault = LeafFaults.find(place, opening.leaf, order);
        if (fault == LeafFault.NONE) revert ErrorsLib.NoFault();
        _voidLeaf(place, opening.leaf.price, Cause.BAD_LEAF);
        _slashCoordinator(place, msg.sender);
    }

    /// @inheritdoc IDisputes
    function proveDouble(
        Batch calldata earlierBatch,
        Opening calldata earlier,
        Batch calldata laterBatch,
        Opening calldata later,
        Evidence calldata evidence
    ) external {
        Place memory first = _open(earlierBatch, earlier);
        Place memory second = _open(laterBatch, later);
        bool isSame = earlier.leaf.orderHash == later.leaf.orderHash
            && (earlier.leaf.line == later.leaf.line
                || earlier.leaf.evidenceHash == later.leaf.evidenceHash);
        // A payment that was taken back is no reason against the next.
        if (!isSame || earlier.leaf.orderHash == 0 || _isVoid(first)) revert ErrorsLib.NoFault();
        if (_isDirect(second)) {
            _voidDirect(first, earlier.leaf, second, later.leaf.price, evidence);
        } else {
            if (!_isBefore(first, second)) revert ErrorsLib.NoFault();
            _voidLeaf(second, later.leaf.price, Cause.DOUBLE);
            _slashCoordinator(second, msg.sender);
        }
    }

    /// @inheritdoc IDisputes
    function proveConflict(
        Hashing.Attestation calldata first,
        bytes calldata firstSignature,
        Hashing.Attestation calldata second,
        bytes calldata secondSignature
    ) external {
        _checkHash("receipt", first.receiptHash, second.receiptHash);
        if (first.verdict != MATCH) revert ErrorsLib.WrongVerdict(MATCH, first.verdict);
        if (second.verdict != MISMATCH) revert ErrorsLib.WrongVerdict(MISMATCH, second.verdict);
        address verifier = _recover(first.hash(), firstSignature);
        _checkSigner(verifier, second.hash(), secondSignature);
        if (_conflicts[verifier][first.receiptHash]) revert ErrorsLib.AlreadyJudged();
        _conflicts[verifier][first.receiptHash] = true;
        _slashStake(verifier, msg.sender, address(0));
    }

    /* INTERNAL */

    /// @dev The earlier payment must be shown whole, or a coordinator could make up one that costs an
    /// honest provider its stake. Two providers with receipts for one line are no fault of either.
    function _voidDirect(
        Place memory first,
        Hashing.Leaf calldata leaf,
        Place memory second,
        uint64 price,
        Evidence calldata evidence
    ) private {
        if (_isDirect(first)) revert ErrorsLib.NoFault();
        _checkEvidence(first, leaf, evidence);
        _voidLeaf(second, price, Cause.DOUBLE);
        if (first.payee == second.payee) {
            _slashStake(second.payee, msg.sender, second.requester);
        }
    }

    function _isVoid(Place memory place) private view returns (bool) {
        return _leaf(place).isVoid || _lane(place).isVoid;
    }

    /// @dev Of one coordinator only: an order names one, so another's leaf is a bad leaf.
    function _isBefore(Place memory first, Place memory second) private pure returns (bool) {
        if (first.coordinator != second.coordinator) return false;
        if (first.seq != second.seq) return first.seq < second.seq;
        if (first.lane != second.lane) return first.lane < second.lane;
        return first.index < second.index;
    }
}
