// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

contract TimeoutTest is Market {
    uint256 internal constant LATE = START + RESPONSE + 1;

    function setUp() public override {
        super.setUp();
        _postSheet();
    }

    /* WHEN */

    function test_RevertWhen_AnAnswerIsStillPossible() external {
        Asked memory leaf = _askLeaf(WORK, 0);
        Asked memory lane = _askWithheld(CHECKS, 0);
        VM.warp(START + RESPONSE);
        bytes memory reason =
            _error(ErrorsLib.TooEarly.selector, START + RESPONSE + 1, START + RESPONSE);
        _refuse(helper, abi.encodeCall(disputes.timeout, (leaf.id, leaf.challenge)), reason);
        _refuse(helper, abi.encodeCall(disputes.timeout, (lane.id, lane.challenge)), reason);
        VM.warp(LATE);
        _timeout(leaf);
        _timeout(lane);
    }

    function test_RevertWhen_ItEndedAlready() external {
        Asked memory lost = _askLeaf(WORK, 0);
        Asked memory answered = _askLeaf(WORK, 1);
        _must(helper, _answer(answered));
        VM.warp(LATE);
        _timeout(lost);
        Asked[2] memory ended = [lost, answered];
        for (uint256 i = 0; i < 2; ++i) {
            _refuse(
                helper,
                abi.encodeCall(disputes.timeout, (ended[i].id, ended[i].challenge)),
                _unknown(ended[i].id, ended[i].challenge)
            );
        }
        _assertConserved();
    }

    /* A LEAF */

    function test_AnUnansweredLeafIsVoidAndCostsTheCoordinator() external {
        Asked memory asked = _askLeaf(WORK, 1);
        uint64 price = asked.challenge.price;
        VM.warp(LATE);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.ChallengeEnded(asked.id, false, watcher);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.LeafVoided(coordinator, 0, WORK, 1, price, IDisputes.Cause.UNANSWERED);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Slashed(
            coordinator, watcher, requester, BOND_SLASH, BOND_SLASH / 8, BOND_SLASH / 4, 0
        );
        VM.prank(helper);
        disputes.timeout(asked.id, asked.challenge);
        uint256 spent = _amount(WORK) + _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - spent + price + BOND_SLASH / 4, "refund and share");
        assertEq(_credit(provider), _amount(WORK) - price, "not paid");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "slashed");
        assertEq(_escrow(watcher), FUNDS, "the bond is back where it came from");
        assertEq(_credit(watcher), BOND_SLASH / 8, "the reward is the challenger's");
        assertEq(_credit(helper), 0, "not the caller's");
        assertEq(settlement.burnt(), BOND_SLASH - BOND_SLASH / 8 - BOND_SLASH / 4, "burnt");
        assertEq(settlement.held(), 0, "held");
        assertTrue(_leaf(WORK, 1).isVoid && !_leaf(WORK, 1).isChallenged, "void");
        assertEq(_leaf(WORK, 1).open, 0, "no dispute is left");
        assertEq(_laneRecord(WORK).aside, price, "aside for good");
        _assertConserved();
    }

    function test_OtherLeavesOfTheLaneArePaid() external {
        Asked memory asked = _askLeaf(WORK, 1);
        VM.warp(LATE);
        _timeout(asked);
        VM.warp(START + 2 * EPOCH);
        assertEq(
            settlement.claim(provider), receipts[0].price + receipts[2].price, "the honest rest"
        );
    }

    /* A LANE */

    function test_AnUnansweredLaneIsVoidAndCostsTheCoordinator() external {
        Asked memory asked = _askWithheld(WORK, 1);
        VM.warp(LATE);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.LaneVoided(coordinator, 0, WORK, uint64(_amount(WORK)));
        _timeout(asked);
        uint256 rest = FUNDS - _amount(CHECKS) - FEE;
        assertEq(_escrow(requester), rest + BOND_SLASH / 4, "the whole lane");
        assertEq(_credit(provider), 0, "nothing of it is paid");
        assertEq(_credit(verifier), _amount(CHECKS), "the other lanes are");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "slashed");
        assertEq(_escrow(watcher), FUNDS, "bond");
        assertEq(settlement.held(), 0, "held");
        assertEq(_laneRecord(WORK).held, 0, "of the lane");
        _assertConserved();
    }

    function test_EachLaneCostsOneSlash() external {
        Asked memory first = _askLeaf(WORK, 0);
        Asked memory second = _askLeaf(WORK, 1);
        Asked memory third = _askWithheld(WORK, 2);
        Asked memory other = _askLeaf(CHECKS, 0);
        VM.warp(LATE);
        _timeout(first);
        _timeout(second);
        _timeout(third);
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "one lane, one slash");
        assertTrue(_laneRecord(WORK).isSlashed, "noted");
        assertEq(_credit(watcher), BOND_SLASH / 8, "one reward");
        _timeout(other);
        assertEq(_bondOf(coordinator), MIN_BOND - 2 * BOND_SLASH, "another lane, another slash");
        assertEq(_escrow(watcher), FUNDS, "all bonds");
        _assertConserved();
    }

    function test_ALeafThatWasVoidIsNotRefundedWithItsLane() external {
        Asked memory leaf = _askLeaf(WORK, 0);
        VM.warp(START + 1);
        Asked memory lane = _askWithheld(WORK, 1);
        VM.warp(LATE + 1);
        _timeout(leaf);
        _timeout(lane);
        uint256 rest = FUNDS - _amount(CHECKS) - FEE;
        assertEq(_escrow(requester), rest + BOND_SLASH / 4, "the lane, once");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    function test_ALeafHeldWhenItsLaneBecameVoidIsRefundedOnce() external {
        Asked memory lane = _askWithheld(WORK, 1);
        VM.warp(START + 1);
        Asked memory leaf = _askLeaf(WORK, 0);
        VM.warp(LATE + 1);
        _timeout(lane);
        _timeout(leaf);
        uint256 rest = FUNDS - _amount(CHECKS) - FEE;
        assertEq(_escrow(requester), rest + BOND_SLASH / 4, "the lane, once");
        assertEq(_credit(provider), 0, "nothing is paid");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    /* WHAT IS VOID ALREADY */

    function test_AChallengeOfAVoidLeafEndsAtOnce() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        _proveBadLeaf(WORK, 0);
        uint256 refunded = _escrow(requester);
        _timeout(asked);
        assertEq(_escrow(watcher), FUNDS, "the bond is back");
        assertEq(_credit(watcher), 0, "the reward was the prover's");
        assertEq(_escrow(requester), refunded, "no second refund");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "no second slash");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    function test_AChallengeOfAVoidLaneEndsAtOnce() external {
        Asked memory first = _askWithheld(WORK, 0);
        VM.warp(LATE - 2);
        Asked memory second = _askWithheld(WORK, 1);
        VM.warp(LATE);
        _timeout(first);
        uint256 refunded = _escrow(requester);
        _timeout(second);
        assertEq(_escrow(watcher), FUNDS, "both bonds are back");
        assertEq(_escrow(requester), refunded, "no second refund");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "no second slash");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    function test_AQuestionAboutALeafIsNotMootWhileItsLaneIsVoidOnly() external {
        Asked memory lane = _askWithheld(WORK, 1);
        VM.warp(LATE - 1);
        Asked memory leaf = _askLeaf(WORK, 0);
        VM.warp(LATE);
        _timeout(lane);
        _refuse(
            helper,
            abi.encodeCall(disputes.timeout, (leaf.id, leaf.challenge)),
            _error(ErrorsLib.TooEarly.selector, LATE + RESPONSE, LATE)
        );
        _must(helper, _answer(leaf));
        assertEq(_credit(helper), CHALLENGE_BOND, "whoever answers still earns the bond");
        assertTrue(_leaf(WORK, 0).isVoid, "void with its lane");
    }

    /* LATE */

    /// @notice Long after the credit matured: what is disputed has not matured with it.
    function test_ATimeoutHasNoDeadline() external {
        Asked memory leaf = _askLeaf(WORK, 0);
        Asked memory lane = _askWithheld(CHECKS, 1);
        VM.warp(START + 365 days);
        assertEq(
            settlement.claim(provider), receipts[1].price + receipts[2].price, "the rest matured"
        );
        _timeout(leaf);
        _timeout(lane);
        uint256 kept = receipts[1].price + receipts[2].price + FEE;
        assertEq(_escrow(requester), FUNDS - kept + 2 * (BOND_SLASH / 4), "the refund is whole");
        assertEq(_escrow(watcher), FUNDS, "and so are the bonds");
        assertEq(settlement.held(), 0, "held");
    }

    function test_ALateSlashTakesWhatIsLeftOfTheBond() external {
        Asked memory asked = _askLeaf(WORK, 0);
        VM.prank(coordinator);
        settlement.requestUnbond(MIN_BOND);
        VM.warp(START + EXIT_DELAY);
        VM.prank(coordinator);
        settlement.unbond(coordinator);
        _timeout(asked);
        assertEq(_escrow(watcher), FUNDS, "principal never depends on the bond");
        assertEq(
            _escrow(requester),
            FUNDS - _amount(CHECKS) - FEE - receipts[1].price - receipts[2].price,
            "refund"
        );
        assertEq(settlement.burnt(), 0, "nothing was left to slash");
    }
}
