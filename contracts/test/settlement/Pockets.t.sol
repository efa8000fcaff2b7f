// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

/// @notice What the judges can do with money, and that it is all they can do.
contract PocketsTest is Fixture {
    uint256 internal constant PANIC_UNDERFLOW = 0x11;

    function setUp() public override {
        super.setUp();
        _deposit(ALICE, 100e6);
        _bond(COORDINATOR, MIN_BOND);
        _stakeProvider(PROVIDER, COLD, MIN_STAKE);
    }

    /* WHO */

    function test_RevertWhen_AnyoneElseMovesMoney() external {
        address[6] memory callers =
            [ALICE, COORDINATOR, PROVIDER, STRANGER, address(settlement), address(this)];
        for (uint256 i = 0; i < callers.length; ++i) {
            for (uint8 pocket = 0; pocket <= uint8(ISettlement.Pocket.BURNT); ++pocket) {
                _expectNotAuthorized(callers[i]);
                VM.prank(callers[i]);
                settlement.take(ISettlement.Pocket(pocket), ALICE, 0, 0);
                _expectNotAuthorized(callers[i]);
                VM.prank(callers[i]);
                settlement.give(ISettlement.Pocket(pocket), ALICE, 0, 0);
            }
        }
    }

    function test_BothJudgesMoveMoney() external {
        _take(address(disputes), ISettlement.Pocket.ESCROW, ALICE, 5, 0);
        _take(address(jury), ISettlement.Pocket.ESCROW, ALICE, 6, 0);
        assertEq(settlement.held(), 11, "held together");
        _give(address(jury), ISettlement.Pocket.ESCROW, BOB, 11, 0);
        assertEq(settlement.held(), 0, "given back");
    }

    /* HOW MUCH */

    function test_RevertWhen_MoreIsGivenThanWasTaken() external {
        _take(address(disputes), ISettlement.Pocket.ESCROW, ALICE, 10, 0);
        uint8[4] memory pockets = [0, 1, 3, 4];
        for (uint256 i = 0; i < pockets.length; ++i) {
            VM.expectRevert(abi.encodeWithSignature("Panic(uint256)", PANIC_UNDERFLOW));
            VM.prank(address(disputes));
            settlement.give(ISettlement.Pocket(pockets[i]), ALICE, 11, 0);
        }
        _give(address(disputes), ISettlement.Pocket.ESCROW, ALICE, 10, 0);
        assertEq(settlement.requesterOf(ALICE).balance, 100e6, "exactly back");
    }

    function test_EachMovementChangesOnePocketAndSaysSo() external {
        _take(address(disputes), ISettlement.Pocket.ESCROW, ALICE, 40, 0);
        _expectGiven(ISettlement.Pocket.ESCROW, BOB, 10, 0);
        assertEq(settlement.requesterOf(BOB).balance, 10, "escrow");
        _expectGiven(ISettlement.Pocket.CREDIT, BOB, 10, uint64(START));
        assertEq(settlement.payeeOf(BOB).cur, 10, "credit");
        _expectGiven(ISettlement.Pocket.STAKE, PROVIDER, 10, 0);
        assertEq(settlement.operatorOf(PROVIDER).stake, MIN_STAKE + 10, "stake");
        _expectGiven(ISettlement.Pocket.BURNT, ALICE, 10, 0);
        assertEq(settlement.burnt(), 10, "burnt");
        assertEq(settlement.held(), 0, "held");
        assertEq(settlement.requesterOf(ALICE).balance, 100e6 - 40, "only what was taken");
    }

    function test_BurntMoneyIsGoneForGood() external {
        _take(address(disputes), ISettlement.Pocket.ESCROW, ALICE, 10, 0);
        _give(address(disputes), ISettlement.Pocket.BURNT, ALICE, 10, 0);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadPocket.selector, 4));
        VM.prank(address(disputes));
        settlement.take(ISettlement.Pocket.BURNT, ALICE, 10, 0);
        assertEq(settlement.burnt(), 10, "still there");
    }

    function test_RevertWhen_ABondIsGivenTo() external {
        _take(address(disputes), ISettlement.Pocket.BOND, COORDINATOR, 10, 0);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadPocket.selector, 2));
        VM.prank(address(disputes));
        settlement.give(ISettlement.Pocket.BOND, COORDINATOR, 10, 0);
    }

    /* ESCROW */

    function test_RevertWhen_MoreEscrowIsTakenThanThere() external {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, ALICE, 100e6 + 1, 100e6)
        );
        VM.prank(address(disputes));
        settlement.take(ISettlement.Pocket.ESCROW, ALICE, 100e6 + 1, 0);
    }

    /* CREDIT AND ITS EPOCHS */

    function test_CreditIsTakenInItsEpochAndTheNext() external {
        _pay(PROVIDER, 30);
        uint64 since = uint64(START);
        _take(address(disputes), ISettlement.Pocket.CREDIT, PROVIDER, 10, since);
        assertEq(settlement.payeeOf(PROVIDER).cur, 20, "of this epoch");
        VM.warp(START + 2 * EPOCH - 1);
        _take(address(disputes), ISettlement.Pocket.CREDIT, PROVIDER, 20, since);
        assertEq(settlement.payeeOf(PROVIDER).prev, 0, "of the epoch before");
        assertEq(settlement.held(), 30, "held");
    }

    function test_RevertWhen_MaturedCreditIsTaken() external {
        _pay(PROVIDER, 30);
        VM.warp(START + 2 * EPOCH);
        _pay(PROVIDER, 30);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.CreditMatured.selector, 7001, 7000));
        VM.prank(address(disputes));
        settlement.take(ISettlement.Pocket.CREDIT, PROVIDER, 1, uint64(START));
        assertEq(settlement.claim(PROVIDER), 30, "whole");
    }

    function test_RevertWhen_MoreCreditIsTakenThanItsEpochHas() external {
        _pay(PROVIDER, 30);
        VM.warp(START + EPOCH);
        _pay(PROVIDER, 7);
        _expectTooLittleCredit(31, 30);
        VM.prank(address(disputes));
        settlement.take(ISettlement.Pocket.CREDIT, PROVIDER, 31, uint64(START));
        _expectTooLittleCredit(8, 7);
        VM.prank(address(disputes));
        settlement.take(ISettlement.Pocket.CREDIT, PROVIDER, 8, uint64(START + EPOCH));
    }

    function test_CreditThatComesBackMaturesWhenItWouldHave() external {
        uint64 since = uint64(START + EPOCH - 1);
        uint256[4] memory backAt =
            [START + EPOCH - 1, START + EPOCH, START + 2 * EPOCH - 1, START + 2 * EPOCH];
        for (uint256 i = 0; i < backAt.length; ++i) {
            VM.warp(since);
            _deploy(_config(address(token)));
            _deposit(ALICE, 100e6);
            _bond(COORDINATOR, MIN_BOND);
            _pay(PROVIDER, 30);
            _take(address(disputes), ISettlement.Pocket.CREDIT, PROVIDER, 30, since);
            VM.warp(backAt[i]);
            _give(address(disputes), ISettlement.Pocket.CREDIT, PROVIDER, 30, since);
            VM.warp(START + 2 * EPOCH - 1);
            // The last comes back too late to be early.
            uint256 early = backAt[i] > START + 2 * EPOCH - 1 ? 30 : 0;
            if (early == 0) assertEq(settlement.payeeOf(PROVIDER).available, 0, "not before");
            VM.warp(START + 2 * EPOCH);
            assertEq(settlement.payeeOf(PROVIDER).available, 30, "and not after");
        }
    }

    function testFuzz_TakingAndGivingBackChangesNothing(
        uint32 paidAt,
        uint32 takenAfter,
        uint32 givenAfter,
        uint64 amount
    ) external {
        uint256 paid = START + paidAt % (3 * EPOCH);
        uint256 taken = paid + takenAfter % EPOCH;
        uint256 given = taken + givenAfter % (5 * EPOCH);
        amount = amount % 100e6 + 1;
        VM.warp(paid);
        _pay(PROVIDER, amount);
        VM.warp(taken);
        _take(address(disputes), ISettlement.Pocket.CREDIT, PROVIDER, amount, uint64(paid));
        assertEq(_credit(PROVIDER), 0, "all of it");
        VM.warp(given);
        _give(address(disputes), ISettlement.Pocket.CREDIT, PROVIDER, amount, uint64(paid));
        uint256 matures = (paid / EPOCH + 2) * EPOCH;
        bool isMature = given >= matures;
        assertEq(settlement.payeeOf(PROVIDER).available, isMature ? amount : 0, "as untouched");
        VM.warp(given < matures ? matures : given);
        assertEq(settlement.claim(PROVIDER), amount, "whole");
    }

    function test_CreditGivenToAnUnusableAddressIsRefused() external {
        _take(address(disputes), ISettlement.Pocket.ESCROW, ALICE, 10, 0);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(0)));
        VM.prank(address(disputes));
        settlement.give(ISettlement.Pocket.CREDIT, address(0), 10, 0);
    }

    /* BOND AND STAKE */

    function test_ABondIsTakenDownToNothing() external {
        assertEq(
            _take(address(disputes), ISettlement.Pocket.BOND, COORDINATOR, 2 * MIN_BOND, 0),
            MIN_BOND,
            "what there was"
        );
        assertEq(settlement.held(), MIN_BOND, "only that is held");
        assertEq(_take(address(disputes), ISettlement.Pocket.BOND, COORDINATOR, 1, 0), 0, "gone");
    }

    function test_ATakenBondClipsWhatIsOnItsWayOut() external {
        VM.prank(COORDINATOR);
        settlement.requestUnbond(MIN_BOND - 100);
        _take(address(disputes), ISettlement.Pocket.BOND, COORDINATOR, 100, 0);
        assertEq(settlement.coordinatorOf(COORDINATOR).unbonding, MIN_BOND - 100, "not yet");
        _take(address(disputes), ISettlement.Pocket.BOND, COORDINATOR, 1, 0);
        assertEq(settlement.coordinatorOf(COORDINATOR).unbonding, MIN_BOND - 101, "clipped");
        VM.warp(START + EXIT_DELAY);
        VM.prank(COORDINATOR);
        assertEq(settlement.unbond(COORDINATOR), MIN_BOND - 101, "what was left");
    }

    function test_ATakenStakeClipsWhatIsOnItsWayOut() external {
        VM.prank(COLD);
        settlement.requestUnstake(PROVIDER, MIN_STAKE);
        assertEq(
            _take(address(jury), ISettlement.Pocket.STAKE, PROVIDER, STAKE_SLASH, 0),
            STAKE_SLASH,
            "also what is on its way out"
        );
        uint64 rest = MIN_STAKE - STAKE_SLASH;
        assertEq(settlement.operatorOf(PROVIDER).unstaking, rest, "clipped");
        VM.warp(START + EXIT_DELAY);
        VM.prank(COLD);
        assertEq(settlement.unstake(PROVIDER), rest, "what was left");
        assertEq(_take(address(jury), ISettlement.Pocket.STAKE, PROVIDER, 1, 0), 0, "gone");
    }

    function test_WhoeverNeverStakedLosesNothing() external {
        assertEq(_take(address(jury), ISettlement.Pocket.STAKE, STRANGER, 5, 0), 0, "stake");
        assertEq(_take(address(jury), ISettlement.Pocket.BOND, STRANGER, 5, 0), 0, "bond");
        assertEq(settlement.held(), 0, "held");
    }

    /* INTERNAL */

    function _take(
        address judge,
        ISettlement.Pocket pocket,
        address account,
        uint64 amount,
        uint64 since
    ) internal returns (uint64) {
        VM.prank(judge);
        return settlement.take(pocket, account, amount, since);
    }

    function _give(
        address judge,
        ISettlement.Pocket pocket,
        address account,
        uint64 amount,
        uint64 since
    ) internal {
        VM.prank(judge);
        settlement.give(pocket, account, amount, since);
    }

    function _expectGiven(ISettlement.Pocket pocket, address account, uint64 amount, uint64 since)
        internal
    {
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Given(pocket, account, amount, since);
        _give(address(disputes), pocket, account, amount, since);
    }

    function _credit(address account) internal view returns (uint256) {
        ISettlement.Payee memory payee = settlement.payeeOf(account);
        return uint256(payee.available) + payee.prev + payee.cur;
    }

    function _expectNotAuthorized(address actual) internal {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, address(disputes), actual)
        );
    }

    function _expectTooLittleCredit(uint256 needed, uint256 actual) internal {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientCredit.selector, needed, actual)
        );
    }
}
