// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IJury} from "../../src/interfaces/IJury.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice Accusing work by its receipt alone: what it takes, what it remembers, what it moves. Unit 3
/// of the order is in no batch.
contract JuryReceiptTest is Court {
    Hashing.Receipt internal unposted;

    function setUp() public override {
        super.setUp();
        _prepare();
    }

    /* WHAT A CASE IS */

    function test_TheCaseHoldsWhatJurorsAndPartiesNeed() external {
        uint256 work = _maturing(provider);
        uint256 id = _accuseReceipt();
        IJury.Case memory case_ = jury.caseOf(id);
        assertEq(case_.receiptHash, Hashing.hash(unposted), "receipt");
        assertTrue(!case_.isPosted, "in no batch");
        assertEq(case_.place.coordinator, coordinator, "coordinator");
        assertEq(case_.place.requester, requester, "requester");
        assertEq(case_.place.payee, provider, "provider");
        assertEq(case_.place.postedAt, VM.getBlockTimestamp(), "as if posted now");
        assertEq(uint256(case_.place.seq) + case_.place.lane + case_.place.index, 0, "no leaf");
        assertEq(uint256(case_.price) + case_.place.laneAmount, 0, "no price");
        assertEq(case_.stakeHeld, STAKE_SLASH, "stake");
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "out of its pocket");
        assertEq(_escrow(accuser), FUNDS - JURY_BOND, "bond");
        assertEq(_maturing(provider), work, "no credit is held");
        assertEq(settlement.held(), JURY_BOND + STAKE_SLASH, "held");
        _checkTrial(id, 0, false);
    }

    function test_TheEventTellsTheWholeCase() external {
        IJury.Case memory case_;
        case_.place.coordinator = coordinator;
        case_.place.requester = requester;
        case_.place.payee = provider;
        case_.place.postedAt = uint64(VM.getBlockTimestamp());
        case_.receiptHash = Hashing.hash(unposted);
        case_.stakeHeld = STAKE_SLASH;
        case_.eligible = eligible;
        case_.drawBlock = uint64(VM.getBlockNumber());
        case_.parties = new IJury.Party[](1);
        case_.parties[0] = IJury.Party({account: accuser, bond: JURY_BOND, accuses: true});
        bytes memory call_ = _receiptCall(eligible);
        VM.expectEmit(true, true, true, true, address(jury));
        emit EventsLib.CaseOpened(1, provider, accuser, case_);
        _must(accuser, call_);
    }

    function test_AnyoneMayAccuse() external {
        _deposit(STRANGER, JURY_BOND);
        _must(STRANGER, _receiptCall(eligible));
        assertEq(_escrow(STRANGER), 0, "with its own bond");
    }

    /* WHAT IS REFUSED */

    function test_RevertWhen_TheOrderIsAnother() external {
        bytes32 named = unposted.orderHash;
        order.maxUnitPrice += 1;
        _refuseReceipt(
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("receipt.orderHash"),
                Hashing.hash(order),
                named
            )
        );
    }

    function test_RevertWhen_SomebodyElseSigned() external {
        bytes32 digest = Hashing.hash(unposted);
        bytes memory forged = _sign(requester, digest);
        _refuse(
            abi.encodeCall(jury.accuseReceipt, (order, unposted, forged, eligible)),
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, provider, requester)
        );
        // Nor does a true signature over another receipt make this one its own.
        bytes memory other = _sign(provider, Hashing.hash(receipts[0]));
        VM.prank(accuser);
        (bool ok,) = address(jury)
            .call(abi.encodeCall(jury.accuseReceipt, (order, unposted, other, eligible)));
        assertTrue(!ok, "of another receipt");
        _refuse(
            abi.encodeCall(jury.accuseReceipt, (order, unposted, new bytes(65), eligible)),
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, provider, address(0))
        );
    }

    function test_RevertWhen_TheReceiptIsNoWorkOfTheOrder() external {
        // Checks and the fee are lines of the order, but no work.
        for (uint32 unit = 4; unit < 8; ++unit) {
            unposted.unit = unit;
            _refuseReceipt(abi.encodeWithSelector(ErrorsLib.BadIndex.selector, 4, unit));
        }
    }

    function test_AccusingEndsWhenTheOrderExpires() external {
        VM.warp(uint256(order.expiry) + 1);
        _refuseReceipt(
            abi.encodeWithSelector(
                ErrorsLib.TooLate.selector, order.expiry, uint256(order.expiry) + 1
            )
        );
        VM.warp(order.expiry);
        _accuseReceipt();
    }

    function test_RevertWhen_TheAccuserHasNoBond() external {
        _deposit(STRANGER, JURY_BOND - 1);
        _refuseBy(
            STRANGER,
            address(jury),
            _receiptCall(eligible),
            abi.encodeWithSelector(
                ErrorsLib.InsufficientBalance.selector, STRANGER, JURY_BOND, JURY_BOND - 1
            )
        );
    }

    function test_EligibleIsExactAsOfNow() external {
        // Listed a second too late to count.
        VM.warp(VM.getBlockTimestamp() + 1);
        _stakeVerifier(_account("late verifier"), COLD, MIN_STAKE);
        VM.warp(VM.getBlockTimestamp() + EPOCH - 1);
        for (uint32 count = 39; count < 43; ++count) {
            if (count == 40) continue;
            bytes memory call_ = _receiptCall(count);
            _refuse(call_, abi.encodeWithSelector(ErrorsLib.WrongEligible.selector, 41, count));
        }
        // A second later it does.
        VM.warp(VM.getBlockTimestamp() + 1);
        bytes memory tooFew = _receiptCall(40);
        _refuse(tooFew, abi.encodeWithSelector(ErrorsLib.WrongEligible.selector, 41, 40));
        _must(accuser, _receiptCall(41));
    }

    /* WHAT IS REMEMBERED */

    function test_RevertWhen_TheReceiptIsTriedAlready() external {
        uint256 id = _accuseReceipt();
        _refuseReceipt(abi.encodeWithSelector(ErrorsLib.AlreadyDisputed.selector));
        _judge(id, MISMATCH);
        _refuseReceipt(abi.encodeWithSelector(ErrorsLib.AlreadyDisputed.selector));
    }

    function test_RevertWhen_TheReceiptWasJudged() external {
        for (uint8 verdict = MATCH; verdict <= MISMATCH; ++verdict) {
            _begin(5);
            _prepare();
            uint256 id = _accuseReceipt();
            _close(id, _judge(id, verdict));
            _checkTrial(id, verdict, true);
            _refuseReceipt(abi.encodeWithSelector(ErrorsLib.AlreadyJudged.selector));
        }
    }

    function test_OneThatNoJuryDecidedCanBeTriedAgain() external {
        uint256 id = _accuseReceipt();
        _dismiss(id);
        _checkTrial(0, 0, false);
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(_stakeOf(provider), MIN_STAKE, "stake back");
        assertEq(settlement.held(), 0, "nothing left behind");
        uint256 second = _accuseReceipt();
        assertEq(second, id + 1, "a new case");
        _close(second, _judge(second, MISMATCH));
        _checkTrial(second, MISMATCH, true);
    }

    /// @notice Who pays for work by a verdict sees it as soon as it is signed, and until it is appealed.
    function test_TheVerdictIsReadableWhileItStands() external {
        _deposit(provider, 6 * JURY_BOND);
        uint256 id = _accuseReceipt();
        _judge(id, MISMATCH);
        _checkTrial(id, MISMATCH, false);
        VM.prank(provider);
        jury.appeal(id);
        _checkTrial(id, 0, false);
        _judge(id, MATCH);
        _checkTrial(id, MATCH, false);
        VM.prank(accuser);
        jury.appeal(id);
        _checkTrial(id, 0, false);
        address[] memory voters = _judge(id, MATCH);
        jury.close(id, voters);
        _checkTrial(id, MATCH, true);
    }

    function test_ALapsedLevelLeavesNoVerdict() external {
        uint256 id = _accuseReceipt();
        _letLapse(id);
        jury.escalate(id);
        _checkTrial(id, 0, false);
        _close(id, _judge(id, MATCH));
        _checkTrial(id, MATCH, true);
    }

    /// @notice Another result for the same unit is another receipt, and is tried on its own.
    function test_AnotherReceiptOfTheSameUnitIsAnotherTrial() external {
        uint256 id = _accuseReceipt();
        _close(id, _judge(id, MISMATCH));
        unposted.resultHash = keccak256("done again");
        uint256 second = _accuseReceipt();
        _close(second, _judge(second, MATCH));
        _checkTrial(second, MATCH, true);
    }

    /* WHAT IS MOVED */

    function test_ConvictionSlashesAndPays() external {
        for (uint8 level = 0; level < 3; ++level) {
            _begin(40);
            _prepare();
            uint256 work = _maturing(provider);
            uint256 id = _accuseReceipt();
            for (uint8 i = 0; i < level; ++i) {
                _letLapse(id);
                jury.escalate(id);
            }
            address[] memory voters = _judge(id, MISMATCH);
            _close(id, voters);
            uint256 part = STAKE_SLASH / 8 / voters.length;
            assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "provider slashed");
            assertEq(_escrow(requester), FUNDS - _total() + STAKE_SLASH / 4, "harmed, no price");
            assertEq(_escrow(accuser), FUNDS, "bond back");
            assertEq(_credit(accuser), STAKE_SLASH / 8, "reporter");
            for (uint256 i = 0; i < voters.length; ++i) {
                assertEq(_credit(voters[i]), part, "juror");
            }
            assertEq(
                settlement.burnt(),
                STAKE_SLASH / 2 + STAKE_SLASH / 8 - part * voters.length,
                "burnt"
            );
            assertEq(_credit(provider), work, "what was posted is not touched");
            assertEq(settlement.held(), 0, "nothing left behind");
        }
    }

    function test_AcquittalPaysTheAccusedAndTheJurors() external {
        uint256 work = _maturing(provider);
        uint256 id = _accuseReceipt();
        address[] memory voters = _judge(id, MATCH);
        _close(id, voters);
        uint256 part = JURY_BOND / 2 / voters.length;
        assertEq(_stakeOf(provider), MIN_STAKE, "stake back");
        assertEq(_credit(provider), work + JURY_BOND - part * voters.length, "compensated");
        assertEq(_credit(voters[4]), part, "juror");
        assertEq(_escrow(accuser), FUNDS - JURY_BOND, "bond lost");
        assertEq(settlement.burnt(), 0, "nothing burnt");
        assertEq(settlement.held(), 0, "nothing left behind");
    }

    /// @notice Credit that matures meanwhile is none of the case's business.
    function test_PaidWorkMaturesBesideACase() external {
        uint256 id = _accuseReceipt();
        VM.warp(START + 3 * EPOCH);
        assertEq(_ready(provider), _total(), "matured");
        settlement.claim(provider);
        _close(id, _judge(id, MISMATCH));
        assertEq(settlement.held(), 0, "nothing left behind");
    }

    function test_TheUnstakedCanBeConvicted() external {
        unposted = _receipt(order, 3, _account("unstaked"), UNIT_PRICE);
        uint256 id = _accuseReceipt();
        assertEq(jury.caseOf(id).stakeHeld, 0, "nothing to hold");
        _close(id, _judge(id, MISMATCH));
        _checkTrial(id, MISMATCH, true);
        assertEq(_escrow(accuser), FUNDS, "bond back");
        assertEq(settlement.held(), 0, "held");
    }

    /* INTERNAL */

    function _prepare() internal {
        unposted = _receipt(order, 3, provider, UNIT_PRICE);
    }

    function _accuseReceipt() internal returns (uint256) {
        return abi.decode(_must(accuser, _receiptCall(eligible)), (uint256));
    }

    function _receiptCall(uint32 count) internal view returns (bytes memory) {
        bytes memory signature = _sign(unposted.provider, Hashing.hash(unposted));
        return abi.encodeCall(jury.accuseReceipt, (order, unposted, signature, count));
    }

    function _refuseReceipt(bytes memory expected) internal {
        _refuse(_receiptCall(eligible), expected);
    }

    function _dismiss(uint256 id) internal {
        for (uint8 level = 0; level < 3; ++level) {
            _letLapse(id);
            if (level < 2) jury.escalate(id);
        }
        jury.close(id, _noVoters());
    }

    function _checkTrial(uint256 id, uint8 verdict, bool isOver) internal view {
        IJury.Trial memory trial = jury.trialOf(Hashing.hash(unposted));
        assertEq(trial.id, id, "trial");
        assertEq(trial.verdict, verdict, "verdict");
        assertTrue(trial.isOver == isOver, "over");
    }
}
