// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";
import {OddToken, SilentToken} from "../mocks/OddToken.sol";

contract OddTokensTest is Fixture {
    OddToken internal odd;

    function setUp() public override {
        super.setUp();
        odd = new OddToken(6);
        _deploy(_config(address(odd)));
        address[4] memory parties = [ALICE, BOB, COORDINATOR, PROVIDER];
        for (uint256 i = 0; i < parties.length; ++i) {
            odd.mint(parties[i], 10_000e6);
            VM.prank(parties[i]);
            odd.approve(address(settlement), type(uint256).max);
        }
    }

    /* FEES AND FALSE */

    function test_RevertWhen_TheTokenTakesAFee() external {
        odd.setFee(1);
        _expectMismatch(100, 99);
        VM.prank(ALICE);
        settlement.deposit(100);
        _expectMismatch(MIN_BOND, MIN_BOND - 1);
        VM.prank(COORDINATOR);
        settlement.bond(MIN_BOND);
        _expectMismatch(MIN_STAKE, MIN_STAKE - 1);
        VM.prank(PROVIDER);
        settlement.stakeProvider(MIN_STAKE, COLD, PEER);
    }

    /// @notice A balance that shrinks leaves the last ones short, and nobody's claim smaller; one that
    /// grows belongs to nobody.
    function test_ARebaseChangesNoClaim() external {
        _depositAndAskBack(ALICE);
        _depositAndAskBack(BOB);
        odd.rebase(address(settlement), 150);
        VM.warp(START + EXIT_DELAY);
        VM.prank(ALICE);
        assertEq(settlement.withdraw(ALICE), 100, "who is first is whole");
        VM.prank(BOB);
        VM.expectRevert();
        settlement.withdraw(BOB);
        assertEq(settlement.requesterOf(BOB).balance, 100, "the claim stands");
        odd.rebase(address(settlement), 1_000);
        VM.prank(BOB);
        assertEq(settlement.withdraw(BOB), 100, "and is paid once there is enough");
        assertEq(odd.balanceOf(address(settlement)), 900, "the rest is nobody's");
    }

    function _depositAndAskBack(address account) private {
        VM.prank(account);
        settlement.deposit(100);
        VM.prank(account);
        settlement.requestWithdraw(100);
    }

    function test_RevertWhen_TheTokenReturnsFalse() external {
        odd.setReturnsFalse(true);
        _expectFailedOperation();
        VM.prank(ALICE);
        settlement.deposit(100);
        odd.setReturnsFalse(false);
        VM.prank(ALICE);
        settlement.deposit(100);
        VM.prank(ALICE);
        settlement.requestWithdraw(100);
        VM.warp(START + EXIT_DELAY);
        odd.setReturnsFalse(true);
        _expectFailedOperation();
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
        odd.setReturnsFalse(false);
        VM.prank(ALICE);
        assertEq(settlement.withdraw(ALICE), 100, "the failed try lost nothing");
    }

    function test_TokenThatReturnsNothingWorks() external {
        SilentToken silent = new SilentToken();
        _deploy(_config(address(silent)));
        silent.mint(ALICE, 100);
        VM.prank(ALICE);
        settlement.deposit(100);
        VM.prank(ALICE);
        settlement.requestWithdraw(100);
        VM.warp(START + EXIT_DELAY);
        VM.prank(ALICE);
        settlement.withdraw(ALICE);
        assertEq(silent.balanceOf(ALICE), 100, "there and back");
    }

    function test_DepositWithPermitWorksOnATokenWithoutPermit() external {
        VM.prank(ALICE);
        settlement.depositWithPermit(100, START, 27, 0, 0);
        assertEq(settlement.requesterOf(ALICE).balance, 100, "the allowance counted");
    }

    function test_TokensSentByForceBelongToNobody() external {
        VM.prank(ALICE);
        settlement.deposit(100);
        VM.prank(BOB);
        odd.transfer(address(settlement), 50);
        VM.prank(BOB);
        settlement.deposit(10);
        assertEq(settlement.requesterOf(BOB).balance, 10, "only what was deposited");
    }

    /* BLACKLISTS */

    function test_ABlockedPayeeBlocksNobodyElse() external {
        _creditPayees(PROVIDER, VERIFIER);
        odd.setBlocked(PROVIDER);
        VM.expectRevert(abi.encodeWithSelector(OddToken.Blocked.selector, PROVIDER));
        settlement.claim(PROVIDER);
        assertEq(settlement.claim(VERIFIER), 7, "the other payee");
        VM.prank(PROVIDER);
        settlement.changePayout(PROVIDER, COLD);
        assertEq(settlement.claim(PROVIDER), 5, "the blocked payee, elsewhere");
        assertEq(odd.balanceOf(COLD), 5, "cold");
    }

    /* REENTRANCY */

    function test_NoTokenHookCanEnterAMoneyFunction() external {
        _creditPayees(PROVIDER, address(odd));
        VM.prank(ALICE);
        settlement.requestWithdraw(1);
        VM.warp(START + EXIT_DELAY);
        bytes[8] memory calls = [
            abi.encodeCall(settlement.deposit, (1)),
            abi.encodeCall(settlement.depositWithPermit, (1, START, 27, 0, 0)),
            abi.encodeCall(settlement.withdraw, (BOB)),
            abi.encodeCall(settlement.bond, (1)),
            abi.encodeCall(settlement.unbond, (BOB)),
            abi.encodeCall(settlement.stakeVerifier, (MIN_STAKE, COLD, PEER)),
            abi.encodeCall(settlement.unstake, (PROVIDER)),
            abi.encodeCall(settlement.claim, (address(odd)))
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            odd.setHook(address(settlement), calls[i]);
            VM.prank(BOB);
            settlement.deposit(1);
            assertTrue(!odd.hookOk(), "refused");
            assertTrue(
                bytes4(odd.hookAnswer())
                    == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector,
                "by the guard"
            );
        }
        assertEq(settlement.requesterOf(BOB).balance, calls.length, "the outer calls counted once");
    }

    function test_APayoutHookCannotBeSeenHalfDone() external {
        _creditPayees(PROVIDER, VERIFIER);
        odd.setHook(address(settlement), abi.encodeCall(settlement.payeeOf, (PROVIDER)));
        settlement.claim(PROVIDER);
        assertTrue(odd.hookOk(), "the view answered");
        (uint64 available,,,) = abi.decode(odd.hookAnswer(), (uint64, uint64, uint64, uint32));
        assertEq(available, 0, "the ledger was written before the transfer");
    }

    /* INTERNAL */

    /// @dev Matured credit of 5 and 7.
    function _creditPayees(address first, address second) internal {
        VM.prank(ALICE);
        settlement.deposit(100);
        VM.prank(COORDINATOR);
        settlement.bond(MIN_BOND);
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, 5), _lane(0, 1, 1, 7));
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _one(ALICE), _two(first, second), lanes);
        VM.warp(START + 2 * EPOCH);
    }

    function _expectMismatch(uint256 expected, uint256 actual) internal {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.TransferMismatch.selector, expected, actual)
        );
    }

    function _expectFailedOperation() internal {
        VM.expectRevert(
            abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(odd))
        );
    }
}
