// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Hashing} from "../libraries/Hashing.sol";
import {Evidences} from "./Evidences.sol";

/// @title Direct
/// @notice How a provider is paid that its coordinator left out.
/// @dev The payment is a batch of one leaf whose coordinator is this contract, so all that can be
/// said against a leaf can be said against it.
abstract contract Direct is Evidences {
    using Hashing for Hashing.Order;
    using Hashing for Hashing.Receipt;
    using Hashing for Hashing.Assignment;
    using Hashing for Hashing.Leaf;

    /* STORAGE */

    uint64 private _directCount;
    mapping(bytes32 orderHash => mapping(uint32 line => bool)) private _settled;

    /* ACTIONS */

    /// @inheritdoc IDisputes
    function settleDirect(
        Evidence calldata evidence,
        Hashing.Assignment calldata assignment,
        bytes calldata assignmentSignature,
        bytes calldata acceptanceSignature
    ) external returns (uint64 seq) {
        Hashing.Order calldata order = evidence.order;
        Hashing.Receipt calldata receipt = evidence.receipt;
        bytes32 orderHash = order.hash();
        _checkProvider(receipt.provider);
        _checkTime(order);
        _checkOrderSignature(order, orderHash, evidence.orderSignature);
        _checkReceipt(evidence, orderHash, receipt.unit);
        _checkAssigned(order, orderHash, receipt, assignment, assignmentSignature);
        _checkAccepted(evidence, acceptanceSignature);
        if (receipt.price > order.maxUnitPrice) {
            revert ErrorsLib.FaultyLeaf(uint8(LeafFault.PRICE_TOO_HIGH));
        }
        if (_settled[orderHash][receipt.unit]) revert ErrorsLib.AlreadySettled();
        _settled[orderHash][receipt.unit] = true;
        seq = _post(order.requester, orderHash, receipt);
    }

    /* VIEWS */

    /// @inheritdoc IDisputes
    function isSettledDirectly(bytes32 orderHash, uint32 line) external view returns (bool) {
        return _settled[orderHash][line];
    }

    /* INTERNAL */

    function _post(address requester, bytes32 orderHash, Hashing.Receipt calldata receipt)
        private
        returns (uint64 seq)
    {
        seq = _directCount++;
        uint64 postedAt = uint64(block.timestamp);
        bytes32 receiptHash = receipt.hash();
        bytes32 root = Hashing.Leaf({
            orderHash: orderHash,
            line: receipt.unit,
            evidenceHash: receiptHash,
            price: receipt.price
        }).hash();
        address[] memory requesters = new address[](1);
        address[] memory payees = new address[](1);
        (requesters[0], payees[0]) = (requester, receipt.provider);
        bytes memory lanes = abi.encodePacked(uint16(0), uint16(0), uint32(1), receipt.price);
        _directs[seq] =
            keccak256(abi.encode(postedAt, receiptHash, root, requesters, payees, lanes));
        _take(ISettlement.Pocket.ESCROW, requester, receipt.price, 0);
        _give(ISettlement.Pocket.CREDIT, receipt.provider, receipt.price, postedAt);
        emit EventsLib.DirectSettled(
            seq,
            requester,
            receipt.provider,
            postedAt,
            orderHash,
            receipt.unit,
            receiptHash,
            receipt.price
        );
    }

    /// @dev All that is shown here is known to others too; who could settle with it what a batch has
    /// paid already could have the provider slashed for that.
    function _checkProvider(address provider) private view {
        if (msg.sender != provider && msg.sender != _SETTLEMENT.payoutOf(provider)) {
            revert ErrorsLib.NotAuthorized(provider, msg.sender);
        }
    }

    /// @dev Only when the coordinator can no longer post it, and while the order binds.
    function _checkTime(Hashing.Order calldata order) private view {
        _checkOver(order.settleBy);
        _checkNotLate(order.expiry);
    }

    /// @dev The provider was named by the order, or by the coordinator; and it has a stake to lose.
    function _checkAssigned(
        Hashing.Order calldata order,
        bytes32 orderHash,
        Hashing.Receipt calldata receipt,
        Hashing.Assignment calldata assignment,
        bytes calldata signature
    ) private view {
        _checkStaked(receipt.provider, ISettlement.Role.PROVIDER);
        if (order.provider != address(0)) {
            _checkSame("provider", order.provider, receipt.provider);
            return;
        }
        _checkHash("assignment.orderHash", orderHash, assignment.orderHash);
        _checkSame("assignment.provider", receipt.provider, assignment.provider);
        if (assignment.unit != receipt.unit) {
            revert ErrorsLib.WrongUnit(receipt.unit, assignment.unit);
        }
        if (receipt.price > assignment.maxPrice) {
            revert ErrorsLib.WrongPrice(assignment.maxPrice, receipt.price);
        }
        if (receipt.finishedAt > assignment.reservedUntil) {
            revert ErrorsLib.TooLate(assignment.reservedUntil, receipt.finishedAt);
        }
        _checkSigner(order.coordinator, assignment.hash(), signature);
    }

    /// @dev Somebody who does not gain by it has seen the work.
    function _checkAccepted(Evidence calldata evidence, bytes calldata acceptanceSignature)
        private
        view
    {
        bytes32 receiptHash = evidence.receipt.hash();
        if (acceptanceSignature.length != 0) {
            _checkSigner(
                evidence.order.requester, Hashing.acceptance(receiptHash), acceptanceSignature
            );
            return;
        }
        if (evidence.attestation.verdict != MATCH) {
            revert ErrorsLib.WrongVerdict(MATCH, evidence.attestation.verdict);
        }
        address verifier =
            _recover(Hashing.hash(evidence.attestation), evidence.attestationSignature);
        _checkAttestation(evidence, verifier);
        _checkStaked(verifier, ISettlement.Role.VERIFIER);
        address payout = _SETTLEMENT.payoutOf(verifier);
        if (payout == _SETTLEMENT.payoutOf(evidence.receipt.provider)) {
            revert ErrorsLib.NotIndependent(verifier);
        }
    }

    function _checkStaked(address operator, ISettlement.Role role) private view {
        ISettlement.Operator memory record = _SETTLEMENT.operatorOf(operator);
        if (record.role != role) revert ErrorsLib.WrongRole(uint8(role), uint8(record.role));
        uint64 counted = record.stake - record.unstaking;
        uint64 minimum = _SETTLEMENT.MIN_STAKE();
        if (counted < minimum) revert ErrorsLib.StakeTooSmall(minimum, counted);
    }
}
