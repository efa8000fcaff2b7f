// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract ClaimTest is Fixture {
    function setUp() public override {
        super.setUp();
        _deposit(ALICE, 100e6);
        _bond(COORDINATOR, MIN_BOND);
    }

    function test_CreditMaturesWithTheSecondEpochAfter() external {
        _pay(PROVIDER, 10);
        VM.warp(START + 2 * EPOCH - 1);
        _expectNothing();
        settlement.claim(PROVIDER);
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.claim(PROVIDER), 10, "paid");
    }

    function test_CreditOfAnEpochsLastSecondWaitsAWholeEpoch() external {
        VM.warp(START + EPOCH - 1);
        _pay(PROVIDER, 10);
        VM.warp(START + 2 * EPOCH - 1);
        _expectNothing();
        settlement.claim(PROVIDER);
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.claim(PROVIDER), 10, "a whole epoch is more than OPEN + RESPONSE");
    }

    function test_EpochsMatureOneByOne() external {
        _pay(PROVIDER, 1);
        VM.warp(START + EPOCH);
        _pay(PROVIDER, 20);
        VM.warp(START + 2 * EPOCH);
        _pay(PROVIDER, 300);
        ISettlement.Payee memory credit = settlement.payeeOf(PROVIDER);
        assertEq(credit.available, 1, "available");
        assertEq(credit.prev, 20, "prev");
        assertEq(credit.cur, 300, "cur");
        assertEq(settlement.claim(PROVIDER), 1, "first");
        VM.warp(START + 3 * EPOCH);
        assertEq(settlement.claim(PROVIDER), 20, "second");
        VM.warp(START + 4 * EPOCH);
        assertEq(settlement.claim(PROVIDER), 300, "third");
    }

    function test_LongSilenceMaturesAll() external {
        _pay(PROVIDER, 1);
        VM.warp(START + EPOCH);
        _pay(PROVIDER, 20);
        VM.warp(START + 100 * EPOCH);
        assertEq(settlement.payeeOf(PROVIDER).available, 21, "view");
        assertEq(settlement.claim(PROVIDER), 21, "paid");
        assertEq(settlement.payeeOf(PROVIDER).available, 0, "nothing left");
    }

    function test_AnyoneMayCallButOnlyThePayeeIsPaid() external {
        _pay(PROVIDER, 10);
        VM.warp(START + 2 * EPOCH);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Claimed(PROVIDER, PROVIDER, 10);
        VM.prank(STRANGER);
        settlement.claim(PROVIDER);
        assertEq(token.balanceOf(PROVIDER), 10, "payee");
        assertEq(token.balanceOf(STRANGER), 0, "caller");
    }

    function test_RegisteredPayeeIsPaidAtItsColdAddress() external {
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
        _pay(PROVIDER, 10);
        VM.warp(START + 2 * EPOCH);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Claimed(PROVIDER, COLD, 10);
        settlement.claim(PROVIDER);
        assertEq(token.balanceOf(COLD), 10, "cold");
    }

    function test_RevertWhen_ClaimedTwice() external {
        _pay(PROVIDER, 10);
        VM.warp(START + 2 * EPOCH);
        settlement.claim(PROVIDER);
        _expectNothing();
        settlement.claim(PROVIDER);
    }

    function test_PayeeIsPaidWhenEveryoneElseIsGone() external {
        _pay(PROVIDER, 10);
        VM.prank(COORDINATOR);
        settlement.requestUnbond(MIN_BOND);
        VM.warp(START + EXIT_DELAY);
        VM.prank(COORDINATOR);
        settlement.unbond(COORDINATOR);
        VM.prank(PROVIDER);
        assertEq(settlement.claim(PROVIDER), 10, "paid");
    }

    function _expectNothing() internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingToClaim.selector, PROVIDER));
    }
}
