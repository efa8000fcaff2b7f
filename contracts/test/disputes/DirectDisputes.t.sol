// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {DirectScene} from "./DirectScene.sol";

/// @notice What can be said against a direct settlement, and what a coordinator can make of it.
contract DirectDisputesTest is DirectScene {
    /* PAID TWICE */

    function test_WhoWasPaidByABatchAndSettlesAgainIsSlashed() external {
        uint256 escrow = _escrow(requester);
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        _proveDouble(0, direct, receipts[0]);
        assertEq(_escrow(requester), escrow + STAKE_SLASH / 4, "refunded, and a quarter");
        assertEq(_credit(STRANGER), STAKE_SLASH / 8, "reporter");
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "slashed");
        assertEq(settlement.coordinatorOf(coordinator).bond, MIN_BOND, "not the coordinator");
        assertEq(_credit(provider), _total(), "the batch stands");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AnotherReceiptForThePaidLineIsADoubleToo() external {
        Hashing.Receipt memory again = _receipt(order, 0, provider, UNIT_PRICE - 5);
        IDisputes.Batch memory direct = _settle(_accepted(again));
        _proveDouble(0, direct, again);
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "slashed");
    }

    function test_AnotherProviderWithAReceiptForTheLineIsNotSlashed() external {
        address second = _secondProvider();
        Hashing.Receipt memory receipt = _receipt(order, 0, second, UNIT_PRICE);
        IDisputes.Batch memory direct = _settleBy(second, receipt);
        uint256 escrow = _escrow(requester);
        _proveDouble(0, direct, receipt);
        assertEq(_escrow(requester), escrow + UNIT_PRICE, "the line is paid once");
        assertEq(_stakeOf(second), MIN_STAKE, "no fault of its own");
        assertEq(_stakeOf(provider), MIN_STAKE, "nor of the first");
        assertEq(settlement.held(), 0, "held");
    }

    function test_RevertWhen_TheDoubleIsProvenAgain() external {
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        _proveDouble(0, direct, receipts[0]);
        _refuseDouble(
            0, direct, receipts[0], abi.encodeWithSelector(ErrorsLib.AlreadyVoid.selector)
        );
    }

    function test_TheProofIsTooLateWhenTheCreditHasMatured() external {
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        uint256 epoch = VM.getBlockTimestamp() / EPOCH;
        VM.warp((epoch + 2) * EPOCH);
        _refuseDouble(
            0,
            direct,
            receipts[0],
            abi.encodeWithSelector(ErrorsLib.CreditMatured.selector, epoch + 1, epoch)
        );
    }

    function test_RevertWhen_TheLinesDiffer() external {
        Hashing.Receipt memory other = _receipt(order, LEFT_OUT, provider, UNIT_PRICE);
        IDisputes.Batch memory direct = _settle(_accepted(other));
        _refuseDouble(0, direct, other, abi.encodeWithSelector(ErrorsLib.NoFault.selector));
    }

    function test_RevertWhen_TheOrdersDiffer() external {
        order = _order(requester, coordinator);
        VM.warp(order.settleBy + 1);
        Hashing.Receipt memory other = _receipt(order, 0, provider, UNIT_PRICE);
        IDisputes.Batch memory direct = _settle(_accepted(other));
        _refuseDouble(0, direct, other, abi.encodeWithSelector(ErrorsLib.NoFault.selector));
    }

    function test_RevertWhen_TheDirectOneIsCalledTheEarlier() external {
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        IDisputes.Evidence memory evidence = _workEvidence(order, receipts[0]);
        bytes memory call_ = abi.encodeCall(
            disputes.proveDouble,
            (direct, _directOpening(receipts[0]), batch, _open(_work(), 0, 0), evidence)
        );
        _refuseBy(
            STRANGER, address(disputes), call_, abi.encodeWithSelector(ErrorsLib.NoFault.selector)
        );
        call_ = abi.encodeCall(
            disputes.proveDouble,
            (direct, _directOpening(receipts[0]), direct, _directOpening(receipts[0]), evidence)
        );
        _refuseBy(
            STRANGER, address(disputes), call_, abi.encodeWithSelector(ErrorsLib.NoFault.selector)
        );
    }

    /* WHAT A COORDINATOR MAKES UP */

    function test_RevertWhen_TheEarlierEvidenceIsNotWhole() external {
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        IDisputes.Evidence memory evidence = _workEvidence(order, receipts[0]);
        evidence.receiptSignature = _sign(coordinator, Hashing.hash(receipts[0]));
        _refuseDoubleWith(
            direct,
            evidence,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, provider, coordinator)
        );
        evidence = _workEvidence(order, receipts[0]);
        evidence.orderSignature = "";
        _refuseDoubleWith(
            direct,
            evidence,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, requester, address(0))
        );
    }

    /// @dev A leaf for the line that the provider never signed.
    function test_AMadeUpEarlierLeafCostsAnHonestProviderNothing() external {
        _begin(6);
        Hashing.Receipt memory fake = _receipt(order, LEFT_OUT, provider, 1);
        fake.resultHash = keccak256("nobody computed this");
        receipts.push(fake);
        batch = _post(coordinator, _work());
        receipts.pop();
        VM.warp(order.settleBy + 1);
        Hashing.Receipt memory real = _receipt(order, LEFT_OUT, provider, UNIT_PRICE);
        IDisputes.Batch memory direct = _settle(_accepted(real));
        receipts.push(fake);
        IDisputes.Evidence memory evidence = _workEvidence(order, fake);
        evidence.receiptSignature = _sign(coordinator, Hashing.hash(fake));
        bytes memory call_ = abi.encodeCall(
            disputes.proveDouble,
            (batch, _open(_work(), 0, LEFT_OUT), direct, _directOpening(real), evidence)
        );
        _refuseBy(
            coordinator,
            address(disputes),
            call_,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, provider, coordinator)
        );
    }

    /// @dev A leaf that is true but too late: the coordinator waits for the direct settlement.
    function test_ALeafPostedAfterSettleByIsNoReasonAgainstADirectOne() external {
        Hashing.Receipt memory real = _receipt(order, LEFT_OUT, provider, UNIT_PRICE);
        receipts.push(real);
        batch = _post(coordinator, _work());
        IDisputes.Batch memory direct = _settle(_accepted(real));
        _refuseDouble(
            LEFT_OUT,
            direct,
            real,
            abi.encodeWithSelector(
                ErrorsLib.FaultyLeaf.selector, uint8(IDisputes.LeafFault.TOO_LATE)
            )
        );
        disputes.proveBadLeaf(batch, _open(_work(), 0, LEFT_OUT), order);
        assertEq(settlement.coordinatorOf(coordinator).bond, MIN_BOND - BOND_SLASH, "slashed");
    }

    function test_AVoidPaymentIsNoReasonAgainstADirectOne() external {
        VM.warp(postedAt);
        _voidByChallenge(0);
        VM.warp(order.settleBy + 1);
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        _refuseDouble(0, direct, receipts[0], abi.encodeWithSelector(ErrorsLib.NoFault.selector));
        assertEq(_credit(provider), _total(), "paid once in the end");
    }

    /// @dev All leaves of a lane that nobody showed are settled directly, and paid once.
    function test_AVoidLaneIsSettledDirectly() external {
        uint256 total = _total();
        VM.warp(postedAt);
        _voidLane();
        assertEq(_credit(provider), 0, "all void");
        VM.warp(order.settleBy + 1);
        for (uint32 i = 0; i < 3; ++i) {
            IDisputes.Batch memory direct = _settle(_accepted(receipts[i]));
            _refuseDouble(
                i, direct, receipts[i], abi.encodeWithSelector(ErrorsLib.NoFault.selector)
            );
        }
        assertEq(_credit(provider), total, "paid once");
        assertEq(_escrow(requester), FUNDS - total + BOND_SLASH / 4, "by the requester");
    }

    /* OTHER DISPUTES */

    function test_DirectWorkCanBeAccused() external {
        Hashing.Receipt memory receipt = _receipt(order, LEFT_OUT, provider, UNIT_PRICE);
        IDisputes.Batch memory direct = _settle(_attestedReceipt(receipt));
        uint256 escrow = _escrow(requester);
        bytes memory call_ = abi.encodeCall(
            jury.accuse,
            (
                direct,
                _directOpening(receipt),
                receipt,
                _sign(provider, Hashing.hash(receipt)),
                eligible
            )
        );
        uint256 id = abi.decode(_must(accuser, call_), (uint256));
        assertEq(settlement.held(), JURY_BOND + STAKE_SLASH + UNIT_PRICE, "held");
        _close(id, _judge(id, MISMATCH));
        assertEq(_escrow(requester), escrow + UNIT_PRICE + STAKE_SLASH / 4, "refunded");
        // And the line stays settled: no second try with the same work.
        _stakeProvider(provider, COLD, STAKE_SLASH);
        VM.warp(order.expiry);
        _refuseClaim(_accepted(receipt), abi.encodeWithSelector(ErrorsLib.AlreadySettled.selector));
    }

    function test_AnAccusedDirectPaymentCanStillBeShownDouble() external {
        uint256 escrow = _escrow(requester);
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        bytes memory call_ = abi.encodeCall(
            jury.accuse,
            (
                direct,
                _directOpening(receipts[0]),
                receipts[0],
                _sign(provider, Hashing.hash(receipts[0])),
                eligible
            )
        );
        uint256 id = abi.decode(_must(accuser, call_), (uint256));
        _proveDouble(0, direct, receipts[0]);
        // The case held 80 of 100, so 20 were there to be slashed for the double.
        uint256 rest = MIN_STAKE - STAKE_SLASH;
        assertEq(_escrow(requester), escrow + rest / 4, "refunded, and a quarter of that");
        _close(id, _judge(id, MISMATCH));
        assertEq(_stakeOf(provider), 0, "and the 80 for false work");
        assertEq(_escrow(requester), escrow + MIN_STAKE / 4, "refunded once");
        assertEq(settlement.held(), 0, "held");
    }

    function test_RevertWhen_ItIsChallengedOrCalledABadLeaf() external {
        Hashing.Receipt memory receipt = _receipt(order, LEFT_OUT, provider, UNIT_PRICE);
        IDisputes.Batch memory direct = _settle(_accepted(receipt));
        IDisputes.Opening memory opening = _directOpening(receipt);
        bytes memory answered = abi.encodeWithSelector(ErrorsLib.AlreadyAnswered.selector);
        _refuseBy(
            accuser,
            address(disputes),
            abi.encodeCall(disputes.challengeLeaf, (direct, opening)),
            answered
        );
        _refuseBy(
            accuser,
            address(disputes),
            abi.encodeCall(disputes.challengeWithheld, (direct, 0, 0)),
            answered
        );
        _refuseBy(
            accuser,
            address(disputes),
            abi.encodeCall(disputes.proveBadLeaf, (direct, opening, order)),
            abi.encodeWithSelector(ErrorsLib.NoFault.selector)
        );
    }

    function test_RevertWhen_TheDirectBatchIsAltered() external {
        IDisputes.Batch memory direct = _settle(_accepted(receipts[0]));
        bytes32 expected = disputes.directOf(0);
        direct.postedAt += 1;
        IDisputes.Opening memory opening = _directOpening(receipts[0]);
        bytes memory call_ = abi.encodeCall(disputes.challengeLeaf, (direct, opening));
        bytes32 actual = keccak256(
            abi.encode(
                direct.postedAt,
                direct.dataHash,
                direct.root,
                direct.requesters,
                direct.payees,
                direct.lanes
            )
        );
        _refuseBy(
            accuser,
            address(disputes),
            call_,
            abi.encodeWithSelector(ErrorsLib.UnknownBatch.selector, expected, actual)
        );
    }

    /* INTERNAL */

    function _doubleCall(
        uint32 index,
        IDisputes.Batch memory direct,
        Hashing.Receipt memory receipt,
        IDisputes.Evidence memory evidence
    ) internal view returns (bytes memory) {
        return abi.encodeCall(
            disputes.proveDouble,
            (batch, _open(_work(), 0, index), direct, _directOpening(receipt), evidence)
        );
    }

    function _proveDouble(
        uint32 index,
        IDisputes.Batch memory direct,
        Hashing.Receipt memory receipt
    ) internal {
        IDisputes.Evidence memory evidence = _workEvidence(order, receipts[index]);
        _must(STRANGER, address(disputes), _doubleCall(index, direct, receipt, evidence));
    }

    function _refuseDouble(
        uint32 index,
        IDisputes.Batch memory direct,
        Hashing.Receipt memory receipt,
        bytes memory expected
    ) internal {
        IDisputes.Evidence memory evidence = _workEvidence(order, receipts[index]);
        bytes memory call_ = _doubleCall(index, direct, receipt, evidence);
        _refuseBy(STRANGER, address(disputes), call_, expected);
    }

    function _refuseDoubleWith(
        IDisputes.Batch memory direct,
        IDisputes.Evidence memory evidence,
        bytes memory expected
    ) internal {
        bytes memory call_ = _doubleCall(0, direct, receipts[0], evidence);
        _refuseBy(STRANGER, address(disputes), call_, expected);
    }

    function _secondProvider() internal returns (address second) {
        second = _account("second provider");
        _stakeProvider(second, STRANGER, MIN_STAKE);
    }

    function _settleBy(address account, Hashing.Receipt memory receipt)
        internal
        returns (IDisputes.Batch memory)
    {
        bytes memory answer = _must(account, address(disputes), _callOf(_accepted(receipt)));
        return _directBatch(abi.decode(answer, (uint64)), receipt);
    }

    function _attestedReceipt(Hashing.Receipt memory receipt)
        internal
        view
        returns (Claim memory claim)
    {
        claim = _bare(receipt);
        claim.evidence.attestation = _attestation(receipt, MATCH);
        claim.evidence.attestationSignature =
            _sign(verifiers[0], Hashing.hash(claim.evidence.attestation));
    }
}
