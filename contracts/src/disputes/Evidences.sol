// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Hashing} from "../libraries/Hashing.sol";
import {LeafFaults} from "../libraries/LeafFaults.sol";
import {Records} from "./Records.sol";

/// @title Evidences
/// @notice Whether what was signed makes a payment right.
/// @dev Contracts sign by `presign`, for good; no code is ever asked whether it signed.
abstract contract Evidences is Records {
    using Hashing for Hashing.Order;
    using Hashing for Hashing.Receipt;
    using Hashing for Hashing.Attestation;

    /* STORAGE */

    mapping(address account => mapping(bytes32 orderHash => bool)) private _presigned;

    /* ORDERS */

    /// @inheritdoc IDisputes
    function presign(Hashing.Order calldata order) external {
        if (msg.sender != order.requester) {
            revert ErrorsLib.NotAuthorized(order.requester, msg.sender);
        }
        bytes32 orderHash = order.hash();
        _presigned[msg.sender][orderHash] = true;
        emit EventsLib.Presigned(msg.sender, orderHash, order.expiry);
    }

    /// @inheritdoc IDisputes
    function isPresigned(address account, bytes32 orderHash) external view returns (bool) {
        return _presigned[account][orderHash];
    }

    /* INTERNAL: EVIDENCE */

    /// @dev Reverts with the reason unless the evidence makes this leaf of a batch right.
    function _checkEvidence(
        Place memory place,
        Hashing.Leaf calldata leaf,
        Evidence calldata evidence
    ) internal view {
        Hashing.Order calldata order = evidence.order;
        _checkHash("order", leaf.orderHash, order.hash());
        LeafFault fault = LeafFaults.find(place, leaf, order);
        if (fault != LeafFault.NONE) revert ErrorsLib.FaultyLeaf(uint8(fault));
        _checkOrderSignature(order, leaf.orderHash, evidence.orderSignature);
        if (leaf.line < order.units) {
            _checkHash("receipt", leaf.evidenceHash, evidence.receipt.hash());
            _checkReceipt(evidence, leaf.orderHash, leaf.line);
            _checkSame("provider", place.payee, evidence.receipt.provider);
            if (evidence.receipt.price != leaf.price) {
                revert ErrorsLib.WrongPrice(evidence.receipt.price, leaf.price);
            }
        } else if (leaf.line < uint256(order.units) + order.checks) {
            _checkHash("attestation", leaf.evidenceHash, evidence.attestation.hash());
            _checkReceipt(evidence, leaf.orderHash, evidence.receipt.unit);
            _checkAttestation(evidence, place.payee);
        }
    }

    function _checkOrderSignature(
        Hashing.Order calldata order,
        bytes32 orderHash,
        bytes calldata signature
    ) internal view {
        if (_presigned[order.requester][orderHash]) return;
        _checkSigner(order.requester, orderHash, signature);
    }

    /// @dev The receipt is of this unit of the order, and its provider signed it.
    function _checkReceipt(Evidence calldata evidence, bytes32 orderHash, uint32 unit)
        internal
        view
    {
        Hashing.Receipt calldata receipt = evidence.receipt;
        _checkHash("receipt.orderHash", orderHash, receipt.orderHash);
        if (receipt.unit != unit || unit >= evidence.order.units) {
            revert ErrorsLib.WrongUnit(unit, receipt.unit);
        }
        _checkSigner(receipt.provider, receipt.hash(), evidence.receiptSignature);
    }

    /// @dev A registered verifier, who is not the provider, decided about the receipt.
    function _checkAttestation(Evidence calldata evidence, address verifier) internal view {
        Hashing.Attestation calldata attestation = evidence.attestation;
        _checkHash("attestation.receiptHash", evidence.receipt.hash(), attestation.receiptHash);
        if (attestation.verdict != MATCH && attestation.verdict != MISMATCH) {
            revert ErrorsLib.WrongVerdict(MATCH, attestation.verdict);
        }
        if (verifier == evidence.receipt.provider) revert ErrorsLib.NotIndependent(verifier);
        ISettlement.Role role = _SETTLEMENT.operatorOf(verifier).role;
        if (role != ISettlement.Role.VERIFIER) {
            revert ErrorsLib.WrongRole(uint8(ISettlement.Role.VERIFIER), uint8(role));
        }
        _checkSigner(verifier, attestation.hash(), evidence.attestationSignature);
    }
}
