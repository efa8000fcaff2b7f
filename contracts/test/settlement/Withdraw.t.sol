// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract WithdrawTest is Fixture {
    function setUp() public override {
        super.setUp();
        _deposit(ALICE, 100e6);
        _bond(COORDINATOR, MIN_BOND);
    }

    function test_RequesterLeavesWithNobodysHelp() external {
        _request(100e6);
        VM.warp(START + EXIT_DELAY);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Withdrawn(ALICE, ALICE, 100e6);
        VM.prank(ALICE);
        assertEq(settlement.withdraw(ALICE), 100e6, "paid");
        assertEq(token.balanceOf(ALICE), 100e6, "wallet");
        assertEq(settlement.requesterOf(ALICE).balance, 0, "escrow");
    }

    function test_RevertWhen_OneSecondTooEarly() external {
        _request(1);
        VM.warp(START + EXIT_DELAY - 1);
        _expectLocked(START + EXIT_DELAY, START + EXIT_DELAY - 1);
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
    }

    function test_BatchesOutrankTheExit() external {
        _request(100e6);
        VM.warp(START + EXIT_DELAY);
        _pay(PROVIDER, 70e6);
        VM.prank(ALICE);
        assertEq(settlement.withdraw(ALICE), 30e6, "what batches left");
    }

    function test_PartialExitLeavesTheRest() external {
        _request(40e6);
        VM.warp(START + EXIT_DELAY);
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
        assertEq(settlement.requesterOf(ALICE).balance, 60e6, "rest");
    }

    function test_RevertWhen_WithdrawnTwice() external {
        _request(40e6);
        VM.warp(START + EXIT_DELAY);
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingRequested.selector, ALICE));
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
    }

    function test_RevertWhen_BatchesSpentAll() external {
        _request(100e6);
        VM.warp(START + EXIT_DELAY);
        _pay(PROVIDER, 100e6);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingRequested.selector, ALICE));
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
    }

    function test_NewRequestReplacesAndRestartsTheClock() external {
        _request(10e6);
        VM.warp(START + EXIT_DELAY);
        _request(20e6);
        _expectLocked(START + 2 * EXIT_DELAY, START + EXIT_DELAY);
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
        VM.warp(START + 2 * EXIT_DELAY);
        VM.prank(ALICE);
        assertEq(settlement.withdraw(ALICE), 20e6, "only the last request counts");
    }

    function test_RequestOfZeroCancels() external {
        _request(10e6);
        _request(0);
        VM.warp(START + EXIT_DELAY);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingRequested.selector, ALICE));
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
    }

    function test_RevertWhen_MoreIsAskedThanThere() external {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, ALICE, 100e6 + 1, 100e6)
        );
        VM.prank(ALICE);
        settlement.requestWithdraw(100e6 + 1);
    }

    function test_LaterDepositFillsAnOldRequestUpToItsAmount() external {
        _request(100e6);
        VM.warp(START + EXIT_DELAY);
        _pay(PROVIDER, 100e6);
        _deposit(ALICE, 50e6);
        VM.prank(ALICE);
        assertEq(settlement.withdraw(ALICE), 50e6, "never more than asked, never more than there");
    }

    function test_EscrowGoesWhereItsOwnerSays() external {
        _request(10);
        VM.warp(START + EXIT_DELAY);
        address[2] memory unusable = [address(0), address(settlement)];
        for (uint256 i = 0; i < unusable.length; ++i) {
            VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, unusable[i]));
            VM.prank(ALICE);
            settlement.withdraw(unusable[i]);
        }
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Withdrawn(ALICE, COLD, 10);
        VM.prank(ALICE);
        settlement.withdraw(COLD);
        assertEq(token.balanceOf(COLD), 10, "cold wallet");
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingRequested.selector, STRANGER));
        VM.prank(STRANGER);
        settlement.withdraw(STRANGER);
    }

    function _request(uint256 amount) internal {
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.WithdrawRequested(ALICE, amount, uint64(VM.getBlockTimestamp()) + EXIT_DELAY);
        VM.prank(ALICE);
        settlement.requestWithdraw(amount);
    }

    function _expectLocked(uint256 unlockAt, uint256 present) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.StillLocked.selector, unlockAt, present));
    }
}
