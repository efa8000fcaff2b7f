// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJury} from "../../src/interfaces/IJury.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice What parties of a case try, alone and together, to shield a payment, to choose their
/// judges, or to make the case last.
contract JuryAttacksTest is Court {
    /* SHIELDING */

    function test_ACaseIsNoShieldFromProofs() external {
        // The coordinator pays more than the order allows, and a friend accuses the leaf.
        receipts[0].price = UNIT_PRICE + 1;
        batch = _post(coordinator, _work());
        uint256 id = _accuse(0);
        VM.warp(START + 4 * EPOCH);
        disputes.proveBadLeaf(batch, _open(_work(), 0, 0), order);
        assertEq(settlement.coordinatorOf(coordinator).bond, MIN_BOND - BOND_SLASH, "slashed");
        uint256 escrow = _escrow(requester);
        _close(id, _judge(id, MATCH));
        assertEq(_escrow(requester), escrow, "refunded by the proof, and not again");
        assertEq(_stakeOf(provider), MIN_STAKE, "the work was right all the same");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AChallengeIsNoShieldFromACase() external {
        (uint256 challenged, IDisputes.Challenge memory challenge) = _challenge(0);
        uint256 before = settlement.held();
        uint256 id = _accuse(0);
        assertEq(settlement.held(), before + JURY_BOND + STAKE_SLASH, "the price is held once only");
        disputes.respond(
            challenged, challenge, _workLeaf(receipts[0]), _workEvidence(order, receipts[0])
        );
        assertEq(
            settlement.held(), JURY_BOND + STAKE_SLASH + receipts[0].price, "held for the case"
        );
        uint256 escrow = _escrow(requester);
        _close(id, _judge(id, MISMATCH));
        assertEq(
            _escrow(requester), escrow + receipts[0].price + STAKE_SLASH / 4, "right and false"
        );
        assertEq(settlement.held(), 0, "held");
    }

    function test_ACaseIsNoShieldFromAChallenge() external {
        uint256 id = _accuse(0);
        (uint256 challenged, IDisputes.Challenge memory challenge) = _challenge(0);
        _close(id, _judge(id, MATCH));
        assertEq(settlement.held(), CHALLENGE_BOND + receipts[0].price, "acquitted but not shown");
        disputes.timeout(challenged, challenge);
        assertEq(settlement.held(), 0, "held");
        assertTrue(_leaf(0).isVoid, "void");
    }

    function test_ALaneThatGoesVoidTakesAnAcquittedLeafAlong() external {
        uint256 id = _accuse(0);
        _voidLane();
        _close(id, _judge(id, MATCH));
        assertTrue(_leaf(0).isVoid, "nobody showed the lane it is in");
        assertEq(_escrow(requester), FUNDS + BOND_SLASH / 4, "all of the lane came back");
        assertEq(_stakeOf(provider), MIN_STAKE, "acquitted all the same");
        assertEq(settlement.held(), 0, "held");
    }

    function test_ALaneThatGoesVoidSavesNoForger() external {
        uint256 id = _accuse(0);
        _voidLane();
        _close(id, _judge(id, MISMATCH));
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "slashed");
        assertEq(_escrow(requester), FUNDS + (BOND_SLASH + STAKE_SLASH) / 4, "refunded once");
        assertEq(settlement.held(), 0, "held");
    }

    /// @notice A coordinator that voids the leaf of an accomplice pays for it and saves nothing,
    /// neither before the verdict nor after it.
    function test_NobodyEscapesAVerdictByHavingTheLeafVoided() external {
        for (uint256 i = 0; i < 2; ++i) {
            _begin(40);
            uint256 id = _accuse(0);
            if (i == 0) _voidByChallenge(0);
            address[] memory voters = _judge(id, MISMATCH);
            if (i == 1) _voidByChallenge(0);
            VM.warp(jury.caseOf(id).deadline + 1);
            _refuse(
                abi.encodeCall(jury.close, (id, _noVoters())),
                abi.encodeWithSelector(
                    ErrorsLib.WrongHash.selector,
                    bytes32("voters"),
                    keccak256(abi.encode(voters)),
                    keccak256(abi.encode(_noVoters()))
                )
            );
            jury.close(id, voters);
            assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "slashed");
            assertEq(
                settlement.coordinatorOf(coordinator).bond, MIN_BOND - BOND_SLASH, "slashed too"
            );
            assertEq(settlement.held(), 0, "held");
        }
    }

    /// @dev A known limit: a payment that was voided before cannot be accused any more. Here a lane that
    /// nobody asks for, because an accomplice pays it, hides what makes the forged leaf a double.
    function test_VoidingBeforeAnAccusationCostsTheCoordinatorsSlash() external {
        _deposit(STRANGER, 1);
        Hashing.Leaf[] memory leaves = new Hashing.Leaf[](1);
        leaves[0] = Hashing.Leaf(Hashing.hash(order), 0, keccak256("hidden"), 1);
        Draft memory hidden = _draft(STRANGER, STRANGER, leaves);
        IDisputes.Batch memory first = _post(coordinator, hidden);
        batch = _post(coordinator, _work());
        IDisputes.Evidence memory none;
        disputes.proveDouble(first, _open(hidden, 0, 0), batch, _open(_work(), 0, 0), none);
        _refuse(_accuseCall(0, eligible), abi.encodeWithSelector(ErrorsLib.AlreadyVoid.selector));
        assertEq(_stakeOf(provider), MIN_STAKE, "not accused");
        assertEq(settlement.coordinatorOf(coordinator).bond, MIN_BOND - BOND_SLASH, "at a price");
    }

    function test_AccusingInTheLastSecondOutlivesMaturity() external {
        VM.warp(START + 3 * EPOCH - 1);
        uint256 id = _accuse(0);
        VM.warp(START + 9 * EPOCH);
        uint256 escrow = _escrow(requester);
        settlement.claim(provider);
        _close(id, _judge(id, MISMATCH));
        assertEq(_escrow(requester), escrow + receipts[0].price + STAKE_SLASH / 4, "held");
    }

    /// @notice Whoever has fewer jurors than a quorum convicts nobody, at any level; and a jury that is
    /// kept from deciding acquits by its silence.
    function test_G7_AMinorityOfJurorsConvictsNobody() external {
        uint256 id = _accuse(0);
        for (uint8 level = 0; level < 3; ++level) {
            address[] memory jurors = _seat(id);
            uint256 quorum = _quorum(level, jurors.length);
            IJury.Vote[] memory votes = _votes(id, jurors, quorum - 1, MISMATCH);
            _refuse(
                abi.encodeCall(jury.decide, (id, jurors, votes)),
                abi.encodeWithSelector(ErrorsLib.NoQuorum.selector, quorum, quorum - 1)
            );
            VM.warp(jury.caseOf(id).deadline + 1);
            if (level < 2) jury.escalate(id);
        }
        jury.close(id, _noVoters());
        assertEq(_stakeOf(provider), MIN_STAKE, "stake");
        assertEq(_credit(provider), _total(), "credit");
        assertEq(_escrow(accuser), FUNDS, "an accusation that nobody judged");
        assertEq(settlement.held(), 0, "held");
    }

    /* CHOOSING JUDGES */

    function test_ThePayoutChangesNoJuryThatSits() external {
        uint256 id = _accuse(0);
        address[] memory jurors = _seat(id);
        // The provider would now be judged by its own payout address, or by whom it is paid with.
        VM.prank(COLD);
        settlement.changePayout(provider, jurors[0]);
        jury.decide(id, jurors, _votes(id, jurors, 5, MISMATCH));
        assertEq(jury.caseOf(id).verdict, MISMATCH, "decided by those who were drawn");
    }

    /// @dev A known limit: whoever gives its payout away to a juror excludes that one juror; its
    /// stake and credit are then the juror's, for good.
    function test_ExcludingAJurorCostsAllThatIsPaidOut() external {
        uint256 id = _accuse(0);
        bytes32 mix = _mix(id);
        address disliked = _drawn(id, mix)[0];
        VM.prank(COLD);
        settlement.changePayout(provider, disliked);
        unfit[disliked] = true;
        assertTrue(!_isAmong(_seatBy(id, mix), disliked), "excluded");
        VM.prank(COLD);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, disliked, COLD));
        settlement.changePayout(provider, COLD);
        VM.warp(START + 3 * EPOCH);
        settlement.claim(provider);
        assertEq(
            token.balanceOf(disliked), uint256(receipts[1].price) + receipts[2].price, "its now"
        );
    }

    function test_AJurorThatLeavesBeforeItSitsIsReplacedByTheNextDrawn() external {
        uint256 id = _accuse(0);
        bytes32 mix = _mix(id);
        address[] memory before = _drawn(id, mix);
        VM.prank(before[2]);
        settlement.requestUnstake(before[2], MIN_STAKE);
        unfit[before[2]] = true;
        address[] memory jurors = _seatBy(id, mix);
        assertEq(jurors.length, 5, "as many");
        assertEq(jurors[0], before[0], "the others stay");
        assertEq(jurors[2], before[3], "and move up");
        assertEq(jurors[3], before[4], "all of them");
    }

    function test_AJurorThatLeavesAfterItSatStillCounts() external {
        uint256 id = _accuse(0);
        address[] memory jurors = _seat(id);
        VM.prank(jurors[0]);
        settlement.requestUnstake(jurors[0], MIN_STAKE);
        jury.decide(id, jurors, _votes(id, jurors, 5, MATCH));
        assertEq(jury.caseOf(id).verdict, MATCH, "decided");
    }

    function test_VerifiersThatComeLaterChangeNoDraw() external {
        uint256 id = _accuse(0);
        address[] memory before = _drawn(id, _mix(id));
        for (uint256 i = 40; i < 80; ++i) {
            _addVerifier(i);
        }
        assertEq(keccak256(abi.encode(_seat(id))), keccak256(abi.encode(before)), "the first forty");
    }

    function test_AJuryIsNotDrawnTwiceForAnotherHeader() external {
        uint256 id = _accuse(0);
        _seat(id);
        _refuse(
            abi.encodeCall(jury.seatJury, (id, _header("nicer"))),
            abi.encodeWithSelector(ErrorsLib.AlreadySeated.selector)
        );
        _refuse(
            abi.encodeCall(jury.redraw, (id)),
            abi.encodeWithSelector(ErrorsLib.AlreadySeated.selector)
        );
    }

    /// @dev Places on the list are for good, so in time most of it are those who left. Draws enough
    /// find the others: otherwise a first jury of five would become one of one, and who has a tenth
    /// of the verifiers would have a tenth of the verdicts.
    function test_AListOfThoseWhoLeftStillGivesAJury() external {
        for (uint256 i = 5; i < 40; ++i) {
            VM.prank(verifiers[i]);
            settlement.requestUnstake(verifiers[i], MIN_STAKE);
            unfit[verifiers[i]] = true;
        }
        uint256 id = _accuse(0);
        for (uint8 level = 0; level < 3; ++level) {
            assertEq(_seat(id).length, 5, "all that are left");
            VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
            if (level < 2) jury.escalate(id);
        }
    }

    /* LASTING */

    /// @dev Everybody else is silent: three juries of RESPONSE each, and blocks.
    function test_TheProviderAloneEndsACaseInThreeResponses() external {
        uint256 start = VM.getBlockTimestamp();
        uint256 startBlock = VM.getBlockNumber();
        uint256 id = _accuse(0);
        for (uint8 level = 0; level < 3; ++level) {
            bytes memory header = _reachSeedBlock(id, _mix(id));
            _must(provider, abi.encodeCall(jury.seatJury, (id, header)));
            VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
            if (level < 2) _must(provider, abi.encodeCall(jury.escalate, (id)));
        }
        _must(provider, abi.encodeCall(jury.close, (id, _noVoters())));
        assertEq(VM.getBlockTimestamp() - start, 3 * (RESPONSE + 1), "seconds");
        assertEq(VM.getBlockNumber() - startBlock, 3 * (SEED_DELAY + 1), "blocks");
        assertEq(_stakeOf(provider), MIN_STAKE, "all back");
    }

    /// @dev The longest way: each jury decides in its last second, each verdict is appealed in its
    /// last second.
    function test_NoCaseLastsLongerThanFiveResponses() external {
        _deposit(provider, 6 * JURY_BOND);
        uint256 start = VM.getBlockTimestamp();
        uint256 id = _accuse(0);
        for (uint8 level = 0; level < 3; ++level) {
            address[] memory jurors = _seat(id);
            VM.warp(jury.caseOf(id).deadline);
            uint256 count = _quorum(level, jurors.length);
            jury.decide(id, jurors, _votes(id, jurors, count, MISMATCH));
            if (level == 2) {
                jury.close(id, _first(jurors, count));
                break;
            }
            VM.warp(jury.caseOf(id).deadline);
            _must(provider, abi.encodeCall(jury.appeal, (id)));
        }
        assertEq(VM.getBlockTimestamp() - start, 5 * RESPONSE, "seconds");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AVerdictIsCarriedOutOnlyWithItsVoters() external {
        uint256 id = _accuse(0);
        address[] memory voters = _judge(id, MISMATCH);
        VM.warp(jury.caseOf(id).deadline + 1);
        address[] memory friends = _first(voters, 5);
        friends[4] = accuser;
        _refuse(
            abi.encodeCall(jury.close, (id, friends)),
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("voters"),
                keccak256(abi.encode(voters)),
                keccak256(abi.encode(friends))
            )
        );
        jury.close(id, voters);
    }

    function test_OneWhoIsAllPartiesStillLosesHalfOfASlash() external {
        // Provider, accuser, requester and jurors are one.
        uint256 id = _accuse(0);
        address[] memory voters = _judge(id, MISMATCH);
        uint256 before = _escrow(requester) + _credit(accuser) + _stakeOf(provider) + STAKE_SLASH;
        _close(id, voters);
        uint256 after_ =
            _escrow(requester) - receipts[0].price + _credit(accuser) + _stakeOf(provider);
        for (uint256 i = 0; i < voters.length; ++i) {
            after_ += _credit(voters[i]);
        }
        assertTrue(before - after_ >= STAKE_SLASH / 2, "at least half is gone");
    }
}
