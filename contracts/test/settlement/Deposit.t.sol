// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract DepositTest is Fixture {
    uint256 internal constant KEY = 0xA11CE;

    function testFuzz_DepositMovesExactlyTheAmount(uint64 first, uint64 second) external {
        VM.assume(first > 0 && second > 0 && uint256(first) + second <= type(uint64).max);
        _fund(ALICE, uint256(first) + second);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Deposited(ALICE, first);
        VM.prank(ALICE);
        settlement.deposit(first);
        VM.prank(ALICE);
        settlement.deposit(second);
        assertEq(settlement.requesterOf(ALICE).balance, uint256(first) + second, "escrow");
        assertEq(token.balanceOf(address(settlement)), uint256(first) + second, "holdings");
        assertEq(token.balanceOf(ALICE), 0, "wallet");
    }

    function test_RevertWhen_DepositIsZero() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.ZeroAmount.selector));
        settlement.deposit(0);
    }

    function test_RevertWhen_HoldingsPassSixtyFourBits() external {
        _deposit(ALICE, type(uint64).max);
        _fund(BOB, 1);
        VM.prank(BOB);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.HoldingsTooLarge.selector, type(uint64).max, uint256(type(uint64).max) + 1
            )
        );
        settlement.deposit(1);
    }

    function test_RevertWhen_AmountWouldWrapToSixtyFourBits() external {
        uint256 wraps = (uint256(1) << 64) + 1;
        _fund(ALICE, wraps);
        VM.prank(ALICE);
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.HoldingsTooLarge.selector, type(uint64).max, wraps)
        );
        settlement.deposit(wraps);
    }

    function test_PermitAndDepositInOneTransaction() external {
        address owner = VM.addr(KEY);
        token.mint(owner, 5e6);
        (uint8 v, bytes32 r, bytes32 s) = _permit(owner, 5e6, START);
        VM.prank(owner);
        settlement.depositWithPermit(5e6, START, v, r, s);
        assertEq(settlement.requesterOf(owner).balance, 5e6, "escrow");
        assertEq(token.allowance(owner, address(settlement)), 0, "no allowance is left");
    }

    function test_FrontRunPermitDoesNotBlockTheDeposit() external {
        address owner = VM.addr(KEY);
        token.mint(owner, 5e6);
        (uint8 v, bytes32 r, bytes32 s) = _permit(owner, 5e6, START);
        VM.prank(STRANGER);
        token.permit(owner, address(settlement), 5e6, START, v, r, s);
        VM.prank(owner);
        settlement.depositWithPermit(5e6, START, v, r, s);
        assertEq(settlement.requesterOf(owner).balance, 5e6, "escrow");
    }

    function test_RevertWhen_PermitOfAnotherIsUsed() external {
        address owner = VM.addr(KEY);
        token.mint(owner, 5e6);
        (uint8 v, bytes32 r, bytes32 s) = _permit(owner, 5e6, START);
        VM.prank(STRANGER);
        VM.expectRevert();
        settlement.depositWithPermit(5e6, START, v, r, s);
        assertEq(token.balanceOf(owner), 5e6, "nothing was taken");
    }

    function _permit(address owner, uint256 amount, uint256 deadline)
        internal
        view
        returns (uint8, bytes32, bytes32)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                ),
                owner,
                address(settlement),
                amount,
                token.nonces(owner),
                deadline
            )
        );
        return
            VM.sign(
                KEY, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash))
            );
    }
}
