// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {TestToken} from "../../src/mocks/TestToken.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice Where the money of a slash goes, and that nobody gains by being slashed.
contract SlashingTest is Market {
    /* SHARES */

    function test_G8_ASlashHarmsTheSlashed() external {
        _postBad();
        _proveBadLeaf(WORK, 0);
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "the slashed");
        assertEq(_credit(helper), BOND_SLASH / 8, "an eighth to the reporter");
        uint256 spent = _amount(WORK) + _amount(CHECKS) + FEE - sheet[WORK][0].price;
        assertEq(_escrow(requester), FUNDS - spent + BOND_SLASH / 4, "a quarter to the harmed");
        assertEq(settlement.burnt(), BOND_SLASH * 5 / 8, "the rest is nobody's");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    function test_TheReporterEarnsAtMostTenChallengeBonds() external {
        uint64[3] memory slashes = [80 * CHALLENGE_BOND, 80 * CHALLENGE_BOND + 8, 10_000e6];
        for (uint256 i = 0; i < slashes.length; ++i) {
            ISettlement.Config memory config = _config(address(token));
            (config.bondSlash, config.minBond) = (slashes[i], 4 * slashes[i]);
            _restart(config);
            _postBad();
            _proveBadLeaf(WORK, 0);
            assertEq(_credit(helper), 10 * CHALLENGE_BOND, "capped");
            assertEq(
                settlement.burnt(),
                slashes[i] - 10 * CHALLENGE_BOND - slashes[i] / 4,
                "what the cap leaves is burnt"
            );
            _assertConserved();
        }
    }

    function test_BelowTheCapItIsAnEighth() external {
        ISettlement.Config memory config = _config(address(token));
        config.bondSlash = 80 * CHALLENGE_BOND - 1;
        config.minBond = 4 * config.bondSlash;
        _restart(config);
        _postBad();
        _proveBadLeaf(WORK, 0);
        assertEq(_credit(helper), config.bondSlash / 8, "rounded down");
        assertTrue(config.bondSlash / 8 < 10 * CHALLENGE_BOND, "not capped");
    }

    function testFuzz_RoundingLosesAndMakesNothing(uint64 slash) external {
        slash = slash % 1e9 + 1;
        ISettlement.Config memory config = _config(address(token));
        (config.bondSlash, config.minBond) = (slash, 4 * slash);
        _restart(config);
        _postBad();
        _proveBadLeaf(WORK, 0);
        assertEq(settlement.held(), 0, "all of it was given to somebody or burnt");
        assertTrue(2 * settlement.burnt() >= slash, "at least half is burnt");
        _assertConserved();
    }

    /* SELF-SLASH */

    /// @notice Reporter, requester and payee may all be the coordinator: half is gone all the same.
    function test_WhoeverSlashesItselfLosesAtLeastHalf() external {
        _deposit(coordinator, FUNDS);
        requester = provider = coordinator;
        helper = watcher = coordinator;
        _writeSheet();
        sheet[WORK][0].price = UNIT_PRICE + 1;
        payees[WORK] = coordinator;
        payees[CHECKS] = coordinator;
        uint256 before = _wealth(coordinator);
        _postSheet();
        IDisputes.Opening memory opening = _opening(WORK, 0);
        VM.prank(coordinator);
        disputes.proveBadLeaf(batch, opening, order);
        uint256 lost = before - _wealth(coordinator);
        assertEq(lost, BOND_SLASH * 5 / 8, "an eighth and a quarter come back");
        assertTrue(2 * lost >= BOND_SLASH, "at least half is gone");
    }

    function test_ACoordinatorThatChallengesItselfLosesAsMuch() external {
        _deposit(coordinator, CHALLENGE_BOND);
        watcher = coordinator;
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        uint256 before = _wealth(coordinator) + CHALLENGE_BOND;
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        assertEq(before - _wealth(coordinator), BOND_SLASH - BOND_SLASH / 8, "seven eighths");
    }

    /* HOW OFTEN */

    function test_ALaneIsSlashedForOnce() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        sheet[WORK][1].price = UNIT_PRICE + 1;
        _postSheet();
        _proveBadLeaf(WORK, 0);
        _proveBadLeaf(WORK, 1);
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "once");
        assertEq(_credit(helper), BOND_SLASH / 8, "one reward");
        assertTrue(_leaf(WORK, 1).isVoid, "the refund is not less for it");
        _assertConserved();
    }

    function test_EachLaneAndEachBatchIsSlashedFor() external {
        _bond(coordinator, MIN_BOND);
        sheet[WORK][0].price = UNIT_PRICE + 1;
        sheet[FEES][0].price = FEE + 1;
        _postSheet();
        _proveBadLeaf(WORK, 0);
        _proveBadLeaf(FEES, 0);
        _postSheet();
        _proveBadLeaf(WORK, 0);
        assertEq(_bondOf(coordinator), 2 * MIN_BOND - 3 * BOND_SLASH, "three lanes");
    }

    function test_APostWithTheSmallestBondCoversFourLanes() external {
        sheet.push();
        sheet.push();
        for (uint16 lane = 3; lane < 5; ++lane) {
            payees.push(provider);
            sheet[lane].push(sheet[WORK][0]);
        }
        for (uint16 lane = 0; lane < 5; ++lane) {
            sheet[lane][0].line = 100;
        }
        ISettlement.Config memory config = _config(address(token));
        config.minBond = 4 * BOND_SLASH;
        _restartWith(config, 4 * BOND_SLASH);
        _postSheet();
        for (uint16 lane = 0; lane < 5; ++lane) {
            _proveBadLeaf(lane, 0);
            uint256 slashed = lane < 4 ? lane + 1 : 4;
            assertEq(_bondOf(coordinator), 4 * BOND_SLASH - slashed * BOND_SLASH, "bond");
            assertTrue(_leaf(lane, 0).isVoid, "refunded, bond or no bond");
        }
        _assertConserved();
    }

    /* TOO LITTLE */

    function test_ABondSmallerThanTheSlashIsSharedAsItIs() external {
        _postBad();
        VM.prank(address(jury));
        settlement.take(ISettlement.Pocket.BOND, coordinator, MIN_BOND - 80, 0);
        uint256 held = settlement.held();
        IDisputes.Opening memory opening = _opening(WORK, 0);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Slashed(coordinator, helper, requester, 80, 10, 20, 0);
        VM.prank(helper);
        disputes.proveBadLeaf(batch, opening, order);
        assertEq(_bondOf(coordinator), 0, "nothing left");
        assertEq(settlement.burnt(), 50, "burnt");
        assertEq(settlement.held(), held, "only what was taken was shared");
    }

    function test_AnEmptyBondStillGivesTheRefund() external {
        _postBad();
        VM.prank(address(jury));
        settlement.take(ISettlement.Pocket.BOND, coordinator, MIN_BOND, 0);
        uint256 before = _escrow(requester);
        IDisputes.Opening memory opening = _opening(WORK, 0);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Slashed(coordinator, helper, requester, 0, 0, 0, 0);
        VM.prank(helper);
        disputes.proveBadLeaf(batch, opening, order);
        assertEq(_escrow(requester), before + sheet[WORK][0].price, "refund");
        assertEq(_credit(helper), 0, "no reward");
    }

    function test_ASlashTakesWhatIsOnItsWayOutToo() external {
        _postBad();
        VM.prank(coordinator);
        settlement.requestUnbond(MIN_BOND);
        _proveBadLeaf(WORK, 0);
        VM.warp(START + EXIT_DELAY);
        VM.prank(coordinator);
        assertEq(settlement.unbond(coordinator), MIN_BOND - BOND_SLASH, "what was left");
    }

    function test_ABondCannotLeaveBeforeItsBatchesHaveMatured() external {
        // The worst case: posted in an epoch's first second, and asked back in the same.
        _postBad();
        VM.prank(coordinator);
        settlement.requestUnbond(MIN_BOND);
        VM.warp(START + 2 * EPOCH - 1);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.StillLocked.selector, START + EXIT_DELAY, START + 2 * EPOCH - 1
            )
        );
        VM.prank(coordinator);
        settlement.unbond(coordinator);
        _proveBadLeaf(WORK, 0);
        assertEq(settlement.burnt(), BOND_SLASH * 5 / 8, "the slash is whole");
    }

    /* NOBODY HARMED */

    function test_WithNobodyHarmedTheirShareIsBurnt() external {
        Hashing.Attestation memory yes = _attestation(receipts[0], 1);
        Hashing.Attestation memory no = _attestation(receipts[0], 2);
        bytes memory first = _sign(verifier, Hashing.hash(yes));
        bytes memory second = _sign(verifier, Hashing.hash(no));
        VM.prank(helper);
        disputes.proveConflict(yes, first, no, second);
        assertEq(settlement.burnt(), STAKE_SLASH * 7 / 8, "burnt");
        assertEq(_escrow(address(0)), 0, "the zero address has no escrow");
    }

    /* INTERNAL */

    function _postBad() internal {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
    }

    function _restart(ISettlement.Config memory config) internal {
        _restartWith(config, config.minBond);
    }

    /// @dev A new market by other parameters; the sheet stays.
    function _restartWith(ISettlement.Config memory config, uint256 bond) internal {
        token = new TestToken();
        config.token = address(token);
        _deploy(config);
        _deposit(requester, FUNDS);
        _deposit(watcher, FUNDS);
        _bond(coordinator, bond);
    }

    /// @dev All that an account has here.
    function _wealth(address account) internal view returns (uint256) {
        return _escrow(account) + _credit(account) + _bondOf(account) + _stakeOf(account);
    }
}
