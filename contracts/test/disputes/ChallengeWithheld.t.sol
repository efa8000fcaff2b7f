// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

contract ChallengeWithheldTest is Market {
    function setUp() public override {
        super.setUp();
        _postSheet();
    }

    /* ASKING */

    function test_AChallengeHoldsTheWholeLane() external {
        IDisputes.Challenge memory expected = _challenge(WORK, 2);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Challenged(1, coordinator, watcher, expected);
        Asked memory asked = _askWithheld(WORK, 2);
        assertEq(disputes.challengeOf(asked.id), keccak256(abi.encode(expected)), "its hash");
        assertEq(_credit(provider), 0, "the lane");
        assertEq(_credit(verifier), _amount(CHECKS), "and no other");
        assertEq(settlement.held(), CHALLENGE_BOND + _amount(WORK), "held");
        assertEq(_laneRecord(WORK).held, _amount(WORK), "of the lane");
        assertEq(_laneRecord(WORK).aside, _amount(WORK), "aside");
        _assertConserved();
    }

    function test_AskingIsPossibleUntilTheLastSecond() external {
        VM.warp(START + OPEN);
        _askWithheld(WORK, 0);
        VM.warp(START + OPEN + 1);
        _refuse(
            watcher,
            abi.encodeCall(disputes.challengeWithheld, (batch, WORK, 1)),
            _error(ErrorsLib.TooLate.selector, START + OPEN, START + OPEN + 1)
        );
    }

    function test_RevertWhen_TheSameIndexIsAskedForTwice() external {
        _askWithheld(WORK, 0);
        bytes memory reason = _error(ErrorsLib.AlreadyDisputed.selector);
        _refuse(watcher, abi.encodeCall(disputes.challengeWithheld, (batch, WORK, 0)), reason);
        _refuse(watcher, abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0))), reason);
    }

    function test_RevertWhen_TheLaneIsVoid() external {
        Asked memory asked = _askWithheld(WORK, 0);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        VM.warp(START + OPEN);
        _refuse(
            watcher,
            abi.encodeCall(disputes.challengeWithheld, (batch, WORK, 1)),
            _error(ErrorsLib.AlreadyVoid.selector)
        );
    }

    /* ANSWERING */

    function test_ShowingTheLeafWithItsEvidenceRestoresTheLane() external {
        Asked memory asked = _askWithheld(WORK, 1);
        bytes memory answer = _answer(asked);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.ChallengeEnded(asked.id, true, helper);
        _must(helper, answer);
        assertEq(_credit(provider), _amount(WORK), "restored");
        assertEq(_credit(helper), CHALLENGE_BOND, "the bond is the responder's");
        assertEq(_laneRecord(WORK).aside, 0, "nothing is aside");
        assertEq(_laneRecord(WORK).held, 0, "nor held of the lane");
        assertEq(settlement.held(), 0, "held");
        assertTrue(_leaf(WORK, 1).isAnswered, "right for good");
        _assertConserved();
    }

    function test_EachKindOfPaymentCanBeShown() external {
        _must(helper, _answer(_askWithheld(CHECKS, 0)));
        _must(helper, _answer(_askWithheld(FEES, 0)));
        assertEq(_credit(verifier), _amount(CHECKS), "checks");
        assertEq(_credit(coordinator), FEE, "fee");
    }

    function test_RevertWhen_OnlyTheLeafIsShown() external {
        Asked memory asked = _askWithheld(WORK, 1);
        IDisputes.Evidence memory evidence = _evidence(WORK, 1);
        evidence.orderSignature = "";
        _refuse(helper, _answerWith(asked, evidence), _wrongSigner(requester, address(0)));
    }

    function test_PaddingNeedsNoEvidence() external {
        Asked memory asked = _askWithheld(WORK, 3);
        IDisputes.Evidence memory none;
        _must(helper, _answerWith(asked, none));
        assertEq(_credit(provider), _amount(WORK), "restored");
    }

    /// @notice Else a forged lane could be saved leaf by leaf, for one slash: whichever leaf was asked
    /// for was proven bad by an accomplice, who then had the challenger's bond.
    function test_AForgedLaneCannotBeSavedLeafByLeaf() external {
        sheet[WORK][1].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askWithheld(WORK, 1);
        _proveBadLeaf(WORK, 1);
        IDisputes.Evidence memory none;
        (bool isAnswered,) = address(disputes).call(_answerWith(asked, none));
        assertTrue(!isAnswered, "a void leaf needs its evidence");
        VM.warp(asked.challenge.deadline + 1);
        disputes.timeout(asked.id, asked.challenge);
        assertTrue(_laneRecord(WORK).isVoid, "the lane is void");
        assertEq(_escrow(watcher), FUNDS, "the challenger has its bond back");
        _assertConserved();
    }

    function test_AnsweringIsPossibleUntilTheLastSecond() external {
        Asked memory first = _askWithheld(WORK, 0);
        Asked memory second = _askWithheld(CHECKS, 0);
        VM.warp(START + RESPONSE);
        _must(helper, _answer(first));
        VM.warp(START + RESPONSE + 1);
        _refuseAnswer(
            second, _error(ErrorsLib.TooLate.selector, START + RESPONSE, START + RESPONSE + 1)
        );
    }

    function test_RevertWhen_AnotherIndexIsShown() external {
        Asked memory asked = _askWithheld(WORK, 0);
        bytes32 expected = keccak256(abi.encode(asked.challenge.place));
        uint16[3] memory lanes = [WORK, WORK, CHECKS];
        uint32[3] memory indices = [uint32(1), 2, 0];
        for (uint256 i = 0; i < lanes.length; ++i) {
            bytes32 actual = keccak256(abi.encode(_placeOf(lanes[i], indices[i])));
            IDisputes.Evidence memory evidence = _evidence(lanes[i], indices[i]);
            bytes memory call_ = abi.encodeCall(
                disputes.respondWithheld,
                (asked.id, asked.challenge, batch, _opening(lanes[i], indices[i]), evidence)
            );
            _refuse(helper, call_, _wrongHash("place", expected, actual));
        }
    }

    function test_RevertWhen_TheLeafOfAnotherBatchIsShown() external {
        Asked memory asked = _askWithheld(WORK, 0);
        bytes32 expected = keccak256(abi.encode(asked.challenge.place));
        _writeSheet();
        _postSheet();
        bytes32 actual = keccak256(abi.encode(_placeOf(WORK, 0)));
        _refuseAnswer(asked, _wrongHash("place", expected, actual));
    }

    function test_RevertWhen_AWithheldLeafIsAnsweredAsIfShown() external {
        Asked memory asked = _askWithheld(WORK, 0);
        Hashing.Leaf memory leaf = sheet[WORK][0];
        _refuse(
            helper,
            abi.encodeCall(disputes.respond, (asked.id, asked.challenge, leaf, _evidence(WORK, 0))),
            _wrongHash("leaf", 0, Hashing.hash(leaf))
        );
    }

    /* SEVERAL AT ONCE */

    function test_TheLaneComesBackWithTheLastAnswer() external {
        Asked memory first = _askWithheld(WORK, 0);
        Asked memory second = _askWithheld(WORK, 1);
        assertEq(settlement.held(), 2 * CHALLENGE_BOND + _amount(WORK), "held once");
        _must(helper, _answer(second));
        assertEq(_credit(provider), 0, "one is still open");
        _must(helper, _answer(first));
        assertEq(_credit(provider), _amount(WORK), "restored");
        assertEq(_laneRecord(WORK).open, 0, "none open");
        _assertConserved();
    }

    /// @notice A coordinator cannot save a lane by answering, at the last second, another question
    /// about it.
    function test_OneAnswerDoesNotShieldAnotherIndex() external {
        Asked memory bad = _askWithheld(WORK, 0);
        VM.warp(START + RESPONSE);
        Asked memory good = _askWithheld(WORK, 1);
        _must(helper, _answer(good));
        VM.warp(START + RESPONSE + 1);
        _timeout(bad);
        assertEq(_credit(provider), 0, "the lane is void");
        assertTrue(_laneRecord(WORK).isVoid, "void");
        assertEq(_escrow(requester), FUNDS - _amount(CHECKS) - FEE + BOND_SLASH / 4, "refund");
    }

    function test_AnsweringAfterTheLaneBecameVoidMovesTheBondOnly() external {
        Asked memory bad = _askWithheld(WORK, 0);
        VM.warp(START + 1);
        Asked memory good = _askWithheld(WORK, 1);
        VM.warp(START + RESPONSE + 1);
        _timeout(bad);
        uint256 refunded = _escrow(requester);
        _must(helper, _answer(good));
        assertEq(_credit(helper), CHALLENGE_BOND, "the bond was earned");
        assertEq(_credit(provider), 0, "void stays void");
        assertEq(_escrow(requester), refunded, "and is not refunded twice");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    /* LEAF AND LANE TOGETHER */

    function test_ALeafHeldBeforeItsLaneIsCountedOnce() external {
        Asked memory leaf = _askLeaf(WORK, 0);
        Asked memory lane = _askWithheld(WORK, 1);
        assertEq(settlement.held(), 2 * CHALLENGE_BOND + _amount(WORK), "the lane once");
        assertEq(_laneRecord(WORK).held, _amount(WORK) - receipts[0].price, "without the leaf");
        _must(helper, _answer(leaf));
        assertEq(_credit(provider), 0, "its lane is still held");
        assertEq(_laneRecord(WORK).held, _amount(WORK), "and the leaf with it");
        _must(helper, _answer(lane));
        assertEq(_credit(provider), _amount(WORK), "all back");
        assertEq(settlement.held(), 0, "held");
    }

    function test_ALeafHeldOutOfAHeldLaneIsCountedOnce() external {
        Asked memory lane = _askWithheld(WORK, 1);
        Asked memory leaf = _askLeaf(WORK, 0);
        assertEq(settlement.held(), 2 * CHALLENGE_BOND + _amount(WORK), "the lane once");
        _must(helper, _answer(lane));
        assertEq(_credit(provider), _amount(WORK) - receipts[0].price, "all but the leaf");
        _must(helper, _answer(leaf));
        assertEq(_credit(provider), _amount(WORK), "all back");
        assertEq(_laneRecord(WORK).aside, 0, "nothing is aside");
    }
}
