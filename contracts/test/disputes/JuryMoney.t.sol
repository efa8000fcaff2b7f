// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice Who has what when a case has ended, for each way it can end.
contract JuryMoneyTest is Court {
    uint64 internal constant HELD_STAKE = STAKE_SLASH;
    uint64 internal constant BOUNTY = STAKE_SLASH / 8;

    function test_AccusingHoldsBondPriceAndStake() external {
        uint256 work = _maturing(provider);
        _accuse(1);
        assertEq(_escrow(accuser), FUNDS - JURY_BOND, "bond from escrow");
        assertEq(_stakeOf(provider), MIN_STAKE - HELD_STAKE, "stake held");
        assertEq(_maturing(provider), work - receipts[1].price, "credit held");
        assertEq(settlement.held(), JURY_BOND + HELD_STAKE + receipts[1].price, "held");
    }

    function test_ConvictionOfALevel() external {
        for (uint8 level = 0; level < 3; ++level) {
            _begin(40);
            uint256 id = _accuse(0);
            for (uint8 i = 0; i < level; ++i) {
                _letLapse(id);
                jury.escalate(id);
            }
            address[] memory voters = _judge(id, MISMATCH);
            _close(id, voters);
            uint256 part = BOUNTY / voters.length;
            assertEq(
                _escrow(requester),
                FUNDS - _total() + receipts[0].price + STAKE_SLASH / 4,
                "requester"
            );
            assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "provider slashed");
            assertEq(_escrow(accuser), FUNDS, "bond back");
            assertEq(_credit(accuser), BOUNTY, "reward");
            for (uint256 i = 0; i < voters.length; ++i) {
                assertEq(_credit(voters[i]), part, "juror");
            }
            uint256 burnt = STAKE_SLASH / 2 + STAKE_SLASH / 8 - part * voters.length;
            assertEq(settlement.burnt(), burnt, "burnt");
            assertEq(settlement.held(), 0, "nothing left behind");
            assertTrue(_leaf(0).isVoid && _leaf(0).isJudged, "void for good");
            assertTrue(jury.caseOf(id).receiptHash == 0, "case gone");
        }
    }

    function test_AcquittalPaysTheAccusedAndTheJurors() external {
        uint256 before = _maturing(provider);
        uint256 id = _accuse(0);
        address[] memory voters = _judge(id, MATCH);
        _close(id, voters);
        uint256 part = JURY_BOND / 2 / voters.length;
        assertEq(_stakeOf(provider), MIN_STAKE, "stake back");
        uint256 rest = JURY_BOND - part * voters.length;
        assertEq(_credit(provider), before + rest, "credit back, and the rest of the bond");
        assertEq(_credit(voters[4]), part, "juror");
        assertEq(_escrow(accuser), FUNDS - JURY_BOND, "bond lost");
        assertEq(_credit(accuser), 0, "nothing back");
        assertEq(settlement.burnt(), 0, "nothing burnt");
        assertEq(settlement.held(), 0, "nothing left behind");
        assertTrue(!_leaf(0).isVoid && _leaf(0).isJudged, "judged for good");
    }

    function test_DismissalGivesEverythingBack() external {
        uint256 before = _maturing(provider);
        uint256 id = _accuse(0);
        _letLapse(id);
        jury.escalate(id);
        _letLapse(id);
        jury.escalate(id);
        _letLapse(id);
        jury.close(id, _noVoters());
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(_stakeOf(provider), MIN_STAKE, "stake back");
        assertEq(_credit(provider), before, "credit back");
        assertEq(settlement.held(), 0, "nothing left behind");
        assertTrue(!_leaf(0).isJudged, "nothing was judged");
    }

    function test_AppealThatWinsForTheAccused() external {
        _deposit(provider, 2 * JURY_BOND);
        uint256 id = _accuse(0);
        _judge(id, MISMATCH);
        VM.prank(provider);
        jury.appeal(id);
        assertEq(_escrow(provider), 0, "twice the bond");
        address[] memory voters = _judge(id, MATCH);
        _close(id, voters);
        uint256 paid = JURY_BOND / 2 / voters.length * voters.length;
        assertEq(_escrow(provider), 2 * JURY_BOND, "own bond back");
        assertEq(_credit(provider), _total() + JURY_BOND - paid, "and the rest");
        assertEq(_escrow(accuser), FUNDS - JURY_BOND, "accuser lost");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AppealThatLosesTwice() external {
        _deposit(provider, 6 * JURY_BOND);
        uint256 id = _accuse(0);
        _judge(id, MISMATCH);
        VM.prank(provider);
        jury.appeal(id);
        _judge(id, MISMATCH);
        VM.prank(provider);
        jury.appeal(id);
        assertEq(_escrow(provider), 0, "twice and four times the bond");
        address[] memory voters = _judge(id, MISMATCH);
        jury.close(id, voters);
        uint256 part = STAKE_SLASH / 8 / voters.length + 3 * JURY_BOND / voters.length;
        assertEq(_credit(voters[0]), part, "jurors: of the slash and half the lost bonds");
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(_credit(accuser), BOUNTY, "reward");
        assertEq(_escrow(provider), 0, "appeal bonds lost");
        uint256 burnt = 6 * JURY_BOND + STAKE_SLASH - STAKE_SLASH / 4 - BOUNTY;
        assertEq(settlement.burnt(), burnt - part * voters.length, "the rest is burnt");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AppealAgainstAnAcquittalThatWins() external {
        uint256 id = _accuse(0);
        _judge(id, MATCH);
        _deposit(STRANGER, 2 * JURY_BOND);
        VM.prank(STRANGER);
        jury.appeal(id);
        _close(id, _judge(id, MISMATCH));
        assertEq(_escrow(STRANGER), 2 * JURY_BOND, "appellant has its bond back");
        assertEq(_credit(accuser), BOUNTY, "the accuser is the reporter");
        assertEq(settlement.held(), 0, "held");
    }

    function test_DismissalAfterAppealsGivesAllBondsBack() external {
        _deposit(provider, 2 * JURY_BOND);
        uint256 id = _accuse(0);
        _judge(id, MISMATCH);
        VM.prank(provider);
        jury.appeal(id);
        _letLapse(id);
        jury.escalate(id);
        _letLapse(id);
        jury.close(id, _noVoters());
        assertEq(_escrow(provider), 2 * JURY_BOND, "appellant");
        assertEq(_escrow(accuser), FUNDS, "accuser");
        assertEq(settlement.held(), 0, "held");
    }

    /// @notice The verdict moves what it always moves, except the price: that went back before.
    function test_ConvictionWhenTheLeafIsVoidForAnotherReason() external {
        uint256 id = _accuse(0);
        _voidByChallenge(0);
        uint256 refunded = FUNDS - _total() + receipts[0].price + BOND_SLASH / 4;
        assertEq(_escrow(requester), refunded, "by the challenge");
        uint256 burnt = settlement.burnt();
        address[] memory voters = _judge(id, MISMATCH);
        _close(id, voters);
        uint256 part = BOUNTY / voters.length;
        assertEq(_escrow(requester), refunded + STAKE_SLASH / 4, "the price once, harmed twice");
        assertEq(_escrow(STRANGER), CHALLENGE_BOND, "the challenger's bond once");
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "provider slashed");
        assertEq(_credit(provider), _total() - receipts[0].price, "the other leaves stand");
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(_credit(accuser), BOUNTY, "reward");
        assertEq(_credit(voters[0]), part, "juror");
        burnt += STAKE_SLASH / 2 + STAKE_SLASH / 8 - part * voters.length;
        assertEq(settlement.burnt(), burnt, "burnt");
        assertEq(settlement.held(), 0, "nothing left behind");
        assertTrue(_leaf(0).isVoid && _leaf(0).isJudged, "void for good");
    }

    function test_AcquittalWhenTheLeafIsVoidForAnotherReason() external {
        uint256 id = _accuse(0);
        address[] memory voters = _judge(id, MATCH);
        _voidByChallenge(0);
        _close(id, voters);
        uint256 rest = JURY_BOND - JURY_BOND / 2 / voters.length * voters.length;
        assertEq(
            _credit(provider), _total() - receipts[0].price + rest, "the bond, and not the price"
        );
        assertEq(_stakeOf(provider), MIN_STAKE, "stake back");
        assertEq(_escrow(accuser), FUNDS - JURY_BOND, "bond lost");
        assertEq(settlement.held(), 0, "nothing left behind");
        assertEq(_escrow(requester), FUNDS - _total() + receipts[0].price + BOND_SLASH / 4, "once");
        assertTrue(_leaf(0).isVoid, "acquitted, but not shown");
    }

    function test_DismissalWhenTheLeafIsVoidForAnotherReason() external {
        uint256 id = _accuse(0);
        _voidByChallenge(0);
        for (uint256 level = 0; level < 3; ++level) {
            _letLapse(id);
            if (level < 2) jury.escalate(id);
        }
        jury.close(id, _noVoters());
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(_stakeOf(provider), MIN_STAKE, "stake back");
        assertEq(_credit(provider), _total() - receipts[0].price, "void all the same");
        assertEq(_escrow(requester), FUNDS - _total() + receipts[0].price + BOND_SLASH / 4, "once");
        assertEq(settlement.held(), 0, "nothing left behind");
    }

    function test_ConvictedWithoutStake() external {
        _leave();
        _repost();
        uint256 id = _accuse(0);
        assertEq(jury.caseOf(id).stakeHeld, 0, "nothing to hold");
        uint256 escrow = _escrow(requester);
        _close(id, _judge(id, MISMATCH));
        assertEq(_escrow(requester), escrow + receipts[0].price, "the price comes back");
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(_credit(accuser), 0, "no reward");
        assertEq(settlement.held(), 0, "held");
    }

    function test_StakeSmallerThanASlashIsHeldWhole() external {
        // Three cases on a stake of 100 with slashes of 80: 80, 20, nothing.
        uint256 a = _accuse(0);
        uint256 b = _accuse(1);
        uint256 c = _accuse(2);
        assertEq(jury.caseOf(a).stakeHeld, 80e6, "first");
        assertEq(jury.caseOf(b).stakeHeld, 20e6, "second");
        assertEq(jury.caseOf(c).stakeHeld, 0, "third");
        _close(b, _judge(b, MATCH));
        assertEq(_stakeOf(provider), 20e6, "each case gives back what it held");
        _close(a, _judge(a, MATCH));
        assertEq(_stakeOf(provider), MIN_STAKE, "each case gives back what it held");
        assertEq(jury.owedBy(provider), 0, "and nobody owes anything");
    }

    /// @notice What other cases hold of a stake is lost all the same, when they give it back.
    function test_WhatAConvictionDoesNotFindIsOwed() external {
        uint256 a = _accuse(0);
        uint256 b = _accuse(1);
        uint256 c = _accuse(2);
        _close(b, _judge(b, MISMATCH));
        assertEq(jury.owedBy(provider), 60e6, "20 of 80 were there");
        uint256 burnt = settlement.burnt();
        address[] memory voters = _judge(a, MATCH);
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        VM.expectEmit(true, true, true, true, address(jury));
        emit EventsLib.Slashed(provider, address(0), address(0), 60e6, 0, 0, 0);
        jury.close(a, voters);
        assertEq(_stakeOf(provider), 20e6, "what was held, less what is owed");
        assertEq(settlement.burnt() - burnt, 60e6, "burnt");
        assertEq(jury.owedBy(provider), 0, "paid");
        // What came back meanwhile is found by the next.
        _close(c, _judge(c, MISMATCH));
        assertEq(_stakeOf(provider), 0, "all of it");
        assertEq(jury.owedBy(provider), 60e6, "and the rest is owed again");
        assertEq(settlement.held(), 0, "nothing left behind");
    }

    function test_ADebtIsPaidAlsoOutOfACaseThatNobodyJudges() external {
        uint256 a = _accuse(0);
        uint256 b = _accuse(1);
        address[] memory voters = _judge(b, MISMATCH);
        for (uint256 level = 0; level < 3; ++level) {
            _letLapse(a);
            if (level < 2) jury.escalate(a);
        }
        jury.close(b, voters);
        jury.close(a, _noVoters());
        assertEq(_stakeOf(provider), 20e6, "less what is owed");
        assertEq(settlement.held(), 0, "nothing left behind");
    }

    function test_StakeThatWasAddedIsFoundToo() external {
        uint256 a = _accuse(0);
        uint256 b = _accuse(1);
        _stakeProvider(provider, COLD, 2 * MIN_STAKE);
        _close(b, _judge(b, MISMATCH));
        assertEq(_stakeOf(provider), 2 * MIN_STAKE - 60e6, "a slash is a slash");
        assertEq(jury.owedBy(provider), 0, "nothing is owed");
        _close(a, _judge(a, MATCH));
        assertEq(_stakeOf(provider), 3 * MIN_STAKE - STAKE_SLASH, "once");
    }

    function test_StakeComesBackAlsoToOneThatLeft() external {
        VM.prank(provider);
        settlement.requestUnstake(provider, MIN_STAKE);
        uint256 id = _accuse(0);
        VM.warp(START + EPOCH + EXIT_DELAY);
        _unstake();
        assertEq(token.balanceOf(COLD), MIN_STAKE - STAKE_SLASH, "what is not held is not blocked");
        _close(id, _judge(id, MATCH));
        assertEq(_stakeOf(provider), STAKE_SLASH, "back after having left");
        VM.prank(provider);
        settlement.requestUnstake(provider, STAKE_SLASH);
        VM.warp(VM.getBlockTimestamp() + EXIT_DELAY);
        _unstake();
        assertEq(token.balanceOf(COLD), MIN_STAKE, "all of it");
    }

    function test_CreditOfACaseThatOutlivesMaturityIsClaimableAtOnce() external {
        uint256 id = _accuse(0);
        VM.warp(START + EPOCH + 2 * EPOCH - 1);
        uint256 others = uint256(receipts[1].price) + receipts[2].price;
        address[] memory voters = _judge(id, MATCH);
        _close(id, voters);
        uint256 bondRest = JURY_BOND - JURY_BOND / 2 / voters.length * voters.length;
        assertEq(_ready(provider), others + receipts[0].price, "matured meanwhile");
        assertEq(_maturing(provider), bondRest, "only the reward waits");
    }

    function test_CreditOfAnAcquittedMaturesWhenItWouldHave() external {
        uint256 id = _accuse(0);
        _close(id, _judge(id, MATCH));
        VM.warp(START + 3 * EPOCH - 1);
        assertEq(_ready(provider), 0, "not earlier");
        VM.warp(START + 3 * EPOCH);
        assertTrue(_ready(provider) >= _total(), "not later");
    }

    /* INTERNAL */

    function _unstake() internal {
        VM.prank(provider);
        settlement.unstake(provider);
    }

    /// @dev The provider's stake is gone before the work that is accused.
    function _leave() internal {
        VM.prank(provider);
        settlement.requestUnstake(provider, MIN_STAKE);
        VM.warp(VM.getBlockTimestamp() + EXIT_DELAY);
        _unstake();
    }

    function _repost() internal {
        order = _order(requester, coordinator);
        delete receipts;
        receipts.push(_receipt(order, 0, provider, UNIT_PRICE));
        batch = _post(coordinator, _work());
    }
}
