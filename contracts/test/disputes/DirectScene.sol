// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice An open order whose coordinator paid unit 0 in its batch and left unit 3 out.
abstract contract DirectScene is Court {
    uint32 internal constant LEFT_OUT = 3;

    /// @dev All that one call of settleDirect takes.
    struct Claim {
        IDisputes.Evidence evidence;
        Hashing.Assignment assignment;
        bytes assignmentSignature;
        bytes acceptanceSignature;
    }

    function setUp() public virtual override {
        _begin(6);
        VM.warp(order.settleBy + 1);
    }

    /// @dev A claim accepted by the requester.
    function _accepted(uint32 unit) internal view returns (Claim memory) {
        return _accepted(_receipt(order, unit, provider, UNIT_PRICE));
    }

    function _accepted(Hashing.Receipt memory receipt) internal view returns (Claim memory claim) {
        claim = _bare(receipt);
        claim.acceptanceSignature = _sign(requester, Hashing.acceptance(Hashing.hash(receipt)));
    }

    /// @dev A claim attested by a verifier.
    function _attested(uint32 unit, address verifier, uint8 verdict)
        internal
        view
        returns (Claim memory claim)
    {
        claim = _bare(_receipt(order, unit, provider, UNIT_PRICE));
        claim.evidence.attestation = _attestation(claim.evidence.receipt, verdict);
        claim.evidence.attestationSignature =
            _sign(verifier, Hashing.hash(claim.evidence.attestation));
    }

    function _bare(Hashing.Receipt memory receipt) internal view returns (Claim memory claim) {
        claim.evidence = _workEvidence(order, receipt);
        claim.assignment = Hashing.Assignment({
            orderHash: receipt.orderHash,
            unit: receipt.unit,
            provider: receipt.provider,
            maxPrice: UNIT_PRICE,
            reservedUntil: receipt.finishedAt
        });
        _signAssignment(claim, coordinator);
    }

    function _signAssignment(Claim memory claim, address signer) internal view {
        claim.assignmentSignature = _sign(signer, Hashing.hash(claim.assignment));
    }

    function _callOf(Claim memory claim) internal view returns (bytes memory) {
        return abi.encodeCall(
            disputes.settleDirect,
            (claim.evidence, claim.assignment, claim.assignmentSignature, claim.acceptanceSignature)
        );
    }

    function _settle(Claim memory claim) internal returns (IDisputes.Batch memory) {
        bytes memory answer = _must(provider, address(disputes), _callOf(claim));
        return _directBatch(abi.decode(answer, (uint64)), claim.evidence.receipt);
    }

    function _refuseClaim(Claim memory claim, bytes memory expected) internal {
        _refuseBy(provider, address(disputes), _callOf(claim), expected);
    }

    /* WHAT IT LEAVES BEHIND */

    /// @dev The batch of one leaf that a direct settlement is.
    function _directBatch(uint64 seq, Hashing.Receipt memory receipt)
        internal
        view
        returns (IDisputes.Batch memory made)
    {
        made = _makeBatch(address(disputes), _directDraft(receipt));
        made.seq = seq;
        made.dataHash = Hashing.hash(receipt);
        made.postedAt = uint64(VM.getBlockTimestamp());
    }

    function _directDraft(Hashing.Receipt memory receipt) internal view returns (Draft memory) {
        return _draft(order.requester, receipt.provider, _leaves(_workLeaf(receipt)));
    }

    function _directOpening(Hashing.Receipt memory receipt)
        internal
        view
        returns (IDisputes.Opening memory)
    {
        return _open(_directDraft(receipt), 0, 0);
    }
}
