// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract StakeTest is Fixture {
    function test_ProviderRegisters() external {
        _fund(PROVIDER, MIN_STAKE);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Staked(PROVIDER, ISettlement.Role.PROVIDER, COLD, PEER, MIN_STAKE);
        VM.prank(PROVIDER);
        settlement.stakeProvider(MIN_STAKE, COLD, PEER);
        ISettlement.Operator memory record = settlement.operatorOf(PROVIDER);
        assertEq(uint256(record.role), uint256(ISettlement.Role.PROVIDER), "role");
        assertEq(record.payout, COLD, "payout");
        assertEq(record.peerIdHash, PEER, "peer");
        assertEq(record.stake, MIN_STAKE, "stake");
        assertEq(record.stakedAt, START, "since");
        assertEq(settlement.payoutOf(PROVIDER), COLD, "claims go to the cold address");
    }

    function test_VerifierRegisters() external {
        _fund(VERIFIER, MIN_STAKE);
        VM.prank(VERIFIER);
        settlement.stakeVerifier(MIN_STAKE, COLD, PEER);
        ISettlement.Operator memory record = settlement.operatorOf(VERIFIER);
        assertEq(uint256(record.role), uint256(ISettlement.Role.VERIFIER), "role");
    }

    function test_TopUpKeepsTheAgeAndReplacesThePeer() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        VM.warp(START + 100);
        _fund(PROVIDER, 1);
        VM.prank(PROVIDER);
        settlement.stakeProvider(1, COLD, keccak256("new peer"));
        ISettlement.Operator memory record = settlement.operatorOf(PROVIDER);
        assertEq(record.stake, MIN_STAKE + 1, "stake");
        assertEq(record.stakedAt, START, "age");
        assertEq(record.peerIdHash, keccak256("new peer"), "peer");
    }

    /* SENIORITY */

    function test_ComingBackAfterLeavingStartsTheAgeAgain() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        VM.warp(START + EXIT_DELAY);
        VM.prank(PROVIDER);
        settlement.unstake(PROVIDER);
        VM.warp(START + EXIT_DELAY + 5);
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        assertEq(settlement.operatorOf(PROVIDER).stakedAt, START + EXIT_DELAY + 5, "age");
    }

    function test_StakeOnItsWayOutCountsForNoAge() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE + 1);
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, 1);
        VM.warp(START + 10);
        _stakeProvider(PROVIDER, COLD, 1);
        assertEq(settlement.operatorOf(PROVIDER).stakedAt, START, "the minimum was there");
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, MIN_STAKE + 2);
        VM.warp(START + 20);
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        assertEq(settlement.operatorOf(PROVIDER).stakedAt, START + 20, "nothing of it counted");
    }

    function test_ToppingUpWhatASlashLeftStartsTheAgeAgain() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        VM.prank(address(disputes));
        settlement.take(ISettlement.Pocket.STAKE, PROVIDER, 1, 0);
        VM.warp(START + 10);
        _stakeProvider(PROVIDER, COLD, 1);
        assertEq(settlement.operatorOf(PROVIDER).stakedAt, START + 10, "age");
    }

    /* LIST OF VERIFIERS */

    function test_VerifiersAreListedOnceInTheOrderOfTheirFirstStakes() external {
        _stakeVerifier(VERIFIER, MIN_STAKE);
        VM.warp(START + 7);
        _stakeVerifier(BOB, MIN_STAKE);
        _stakeVerifier(VERIFIER, 1);
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        assertEq(settlement.verifierCount(), 2, "providers and top-ups are not listed");
        (address operator, uint64 listedAt) = settlement.verifierAt(0);
        assertEq(operator, VERIFIER, "first");
        assertEq(listedAt, START, "since");
        (operator, listedAt) = settlement.verifierAt(1);
        assertEq(operator, BOB, "second");
        assertEq(listedAt, START + 7, "since");
    }

    function test_AVerifierThatComesBackIsNotListedAgain() external {
        _stakeVerifier(VERIFIER, MIN_STAKE);
        VM.prank(VERIFIER);
        settlement.requestUnstake(VERIFIER, MIN_STAKE);
        VM.warp(START + EXIT_DELAY);
        VM.prank(VERIFIER);
        settlement.unstake(VERIFIER);
        _stakeVerifier(VERIFIER, MIN_STAKE);
        assertEq(settlement.verifierCount(), 1, "its chance to be drawn does not grow");
    }

    /* WHAT IS REFUSED */

    function test_RevertWhen_StakeIsBelowTheMinimum() external {
        _fund(PROVIDER, MIN_STAKE);
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.StakeTooSmall.selector, MIN_STAKE, MIN_STAKE - 1)
        );
        VM.prank(PROVIDER);
        settlement.stakeProvider(MIN_STAKE - 1, COLD, PEER);
    }

    function test_RevertWhen_OneKeyWantsBothRoles() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        _fund(PROVIDER, MIN_STAKE);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.WrongRole.selector, 2, 1));
        VM.prank(PROVIDER);
        settlement.stakeVerifier(MIN_STAKE, COLD, PEER);
    }

    function test_RevertWhen_AStolenKeyNamesAnotherPayout() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        _fund(PROVIDER, MIN_STAKE);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.WrongPayout.selector, COLD, STRANGER));
        VM.prank(PROVIDER);
        settlement.stakeProvider(MIN_STAKE, STRANGER, PEER);
    }

    function test_RevertWhen_PayoutIsUnusable() external {
        _fund(PROVIDER, MIN_STAKE);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(0)));
        VM.prank(PROVIDER);
        settlement.stakeProvider(MIN_STAKE, address(0), PEER);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(settlement)));
        VM.prank(PROVIDER);
        settlement.stakeProvider(MIN_STAKE, address(settlement), PEER);
    }

    function test_StakeComesBackToTheColdAddress() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.UnstakeRequested(PROVIDER, MIN_STAKE, uint64(START) + EXIT_DELAY);
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        VM.warp(START + EXIT_DELAY - 1);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.StillLocked.selector, START + EXIT_DELAY, START + EXIT_DELAY - 1
            )
        );
        VM.prank(PROVIDER);
        settlement.unstake(PROVIDER);
        VM.warp(START + EXIT_DELAY);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Unstaked(PROVIDER, COLD, MIN_STAKE);
        VM.prank(PROVIDER);
        settlement.unstake(PROVIDER);
        assertEq(token.balanceOf(COLD), MIN_STAKE, "cold wallet");
        assertEq(token.balanceOf(PROVIDER), 0, "hot wallet");
        assertEq(settlement.payoutOf(PROVIDER), COLD, "credit still to come is safe too");
    }

    function test_ColdAddressAloneCanLeave() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        VM.prank(COLD);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        VM.warp(START + EXIT_DELAY);
        VM.prank(COLD);
        settlement.unstake(PROVIDER);
        assertEq(token.balanceOf(COLD), MIN_STAKE, "cold wallet");
    }

    function test_RevertWhen_AStrangerUnstakes() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        _expectNotAuthorized(PROVIDER, STRANGER);
        VM.prank(STRANGER);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        VM.warp(START + EXIT_DELAY);
        _expectNotAuthorized(PROVIDER, STRANGER);
        VM.prank(STRANGER);
        settlement.unstake(PROVIDER);
    }

    function test_RevertWhen_TheRestIsBelowTheMinimum() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE + 10);
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, 10);
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.StakeTooSmall.selector, MIN_STAKE, MIN_STAKE - 1)
        );
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, 11);
    }

    function test_RevertWhen_ToppingUpAnExitToBelowTheMinimum() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        VM.prank(PROVIDER);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        _fund(PROVIDER, 1);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.StakeTooSmall.selector, MIN_STAKE, 1));
        VM.prank(PROVIDER);
        settlement.stakeProvider(1, COLD, PEER);
    }

    function test_PayoutIsChangedByThePayoutOnly() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        _expectNotAuthorized(COLD, PROVIDER);
        VM.prank(PROVIDER);
        settlement.changePayout(PROVIDER, STRANGER);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.PayoutChanged(PROVIDER, COLD, BOB);
        VM.prank(COLD);
        settlement.changePayout(PROVIDER, BOB);
        assertEq(settlement.payoutOf(PROVIDER), BOB, "payout");
    }

    function test_PayeeWithoutPayoutSetsItsOwn() external {
        VM.prank(COORDINATOR);
        settlement.changePayout(COORDINATOR, COLD);
        assertEq(settlement.payoutOf(COORDINATOR), COLD, "payout");
        _fund(COORDINATOR, MIN_STAKE);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.WrongPayout.selector, COLD, COORDINATOR));
        VM.prank(COORDINATOR);
        settlement.stakeVerifier(MIN_STAKE, COORDINATOR, PEER);
    }

    function test_RevertWhen_NewPayoutIsUnusable() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(0)));
        VM.prank(PROVIDER);
        settlement.changePayout(PROVIDER, address(0));
    }

    function _stakeVerifier(address account, uint256 amount) internal {
        _fund(account, amount);
        VM.prank(account);
        settlement.stakeVerifier(amount, COLD, PEER);
    }

    function _expectNotAuthorized(address expected, address actual) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, expected, actual));
    }
}
