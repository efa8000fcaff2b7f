// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract BondTest is Fixture {
    function setUp() public override {
        super.setUp();
        _deposit(ALICE, 100e6);
    }

    function test_BondAddsUp() external {
        _fund(COORDINATOR, MIN_BOND);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Bonded(COORDINATOR, 1e6);
        VM.prank(COORDINATOR);
        settlement.bond(1e6);
        VM.prank(COORDINATOR);
        settlement.bond(MIN_BOND - 1e6);
        assertEq(settlement.coordinatorOf(COORDINATOR).bond, MIN_BOND, "bond");
    }

    function test_RevertWhen_PostingBelowTheMinimum() external {
        _bond(COORDINATOR, MIN_BOND - 1);
        _expectTooSmall(MIN_BOND - 1);
        _pay(PROVIDER, 1);
        _bond(COORDINATOR, 1);
        _pay(PROVIDER, 1);
    }

    function test_RevertWhen_PostingWhileUnbonding() external {
        _bond(COORDINATOR, MIN_BOND);
        VM.prank(COORDINATOR);
        settlement.requestUnbond(1);
        _expectTooSmall(MIN_BOND - 1);
        _pay(PROVIDER, 1);
        VM.prank(COORDINATOR);
        settlement.requestUnbond(0);
        _pay(PROVIDER, 1);
    }

    function test_BondComesBackAfterTheDelay() external {
        _bond(COORDINATOR, MIN_BOND);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.UnbondRequested(COORDINATOR, MIN_BOND, uint64(START) + EXIT_DELAY);
        VM.prank(COORDINATOR);
        settlement.requestUnbond(MIN_BOND);
        VM.warp(START + EXIT_DELAY - 1);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.StillLocked.selector, START + EXIT_DELAY, START + EXIT_DELAY - 1
            )
        );
        VM.prank(COORDINATOR);
        settlement.unbond(COORDINATOR);
        VM.warp(START + EXIT_DELAY);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Unbonded(COORDINATOR, COORDINATOR, MIN_BOND);
        VM.prank(COORDINATOR);
        assertEq(settlement.unbond(COORDINATOR), MIN_BOND, "paid");
        assertEq(token.balanceOf(COORDINATOR), MIN_BOND, "wallet");
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingRequested.selector, COORDINATOR));
        VM.prank(COORDINATOR);
        settlement.unbond(COORDINATOR);
    }

    function test_RevertWhen_MoreIsAskedThanBonded() external {
        _bond(COORDINATOR, 5);
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, COORDINATOR, 6, 5)
        );
        VM.prank(COORDINATOR);
        settlement.requestUnbond(6);
    }

    function test_UnbondingKeepsTheCountOfBatches() external {
        _bond(COORDINATOR, MIN_BOND);
        _pay(PROVIDER, 1);
        VM.prank(COORDINATOR);
        settlement.requestUnbond(MIN_BOND);
        VM.warp(START + EXIT_DELAY);
        VM.prank(COORDINATOR);
        settlement.unbond(COORDINATOR);
        _bond(COORDINATOR, MIN_BOND);
        assertEq(_pay(PROVIDER, 1), 1, "a number is never used twice");
    }

    function test_BondGoesWhereItsOwnerSays() external {
        _bond(COORDINATOR, MIN_BOND);
        VM.prank(COORDINATOR);
        settlement.requestUnbond(10);
        VM.warp(START + EXIT_DELAY);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(0)));
        VM.prank(COORDINATOR);
        settlement.unbond(address(0));
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Unbonded(COORDINATOR, COLD, 10);
        VM.prank(COORDINATOR);
        settlement.unbond(COLD);
        assertEq(token.balanceOf(COLD), 10, "cold wallet");
        assertEq(settlement.coordinatorOf(COORDINATOR).bond, MIN_BOND - 10, "rest");
    }

    function _expectTooSmall(uint256 counted) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BondTooSmall.selector, MIN_BOND, counted));
    }
}
