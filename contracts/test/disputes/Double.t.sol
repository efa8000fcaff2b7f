// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice One payment line pays once, in batches; DirectDisputes.t.sol has direct settlements.
contract DoubleTest is Market {
    /// @notice A leaf with all that shows it, kept while the sheet changes.
    struct Shown {
        IDisputes.Batch batch;
        IDisputes.Opening opening;
    }

    /* TWO OF A COORDINATOR */

    function test_TheSameLineInALaterBatchIsVoid() external {
        _postSheet();
        Shown memory first = _show(WORK, 0);
        _postSheet();
        Shown memory second = _show(WORK, 0);
        uint256 paid = _credit(provider);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.LeafVoided(
            coordinator, 1, WORK, 0, receipts[0].price, IDisputes.Cause.DOUBLE
        );
        _must(helper, _prove(first, second));
        assertEq(_credit(provider), paid - receipts[0].price, "paid once");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "slashed");
        assertEq(_credit(helper), BOND_SLASH / 8, "reward");
        assertEq(_stakeOf(provider), MIN_STAKE, "no fault of the provider");
        assertTrue(_leaf(WORK, 0).isVoid, "the later is void");
        assertTrue(!disputes.leafOf(coordinator, 0, WORK, 0).isVoid, "the earlier is not");
        _refuse(helper, _prove(first, second), _error(ErrorsLib.AlreadyVoid.selector));
        _assertConserved();
    }

    function test_EachKindOfLinePaysOnce() external {
        _postSheet();
        Shown memory check = _show(CHECKS, 1);
        Shown memory fee = _show(FEES, 0);
        _postSheet();
        _must(helper, _prove(check, _show(CHECKS, 1)));
        _must(helper, _prove(fee, _show(FEES, 0)));
        assertEq(_credit(verifier), 2 * _amount(CHECKS) - CHECK_PRICE, "check");
        assertEq(_credit(coordinator), FEE, "fee");
    }

    function test_TheSameLineWithOtherEvidenceIsDouble() external {
        _postSheet();
        Shown memory first = _show(WORK, 0);
        Hashing.Receipt memory other = _receipt(order, 0, provider, 1);
        sheet[WORK][0] = _workLeaf(other);
        _postSheet();
        _must(helper, _prove(first, _show(WORK, 0)));
    }

    function test_TheSameEvidenceOnAnotherLineIsDouble() external {
        sheet[CHECKS][1].evidenceHash = sheet[CHECKS][0].evidenceHash;
        _postSheet();
        _must(helper, _prove(_show(CHECKS, 0), _show(CHECKS, 1)));
        assertTrue(_leaf(CHECKS, 1).isVoid, "one verdict, one payment");
    }

    function test_TheSameLaneOtherIndex() external {
        sheet[WORK][2] = sheet[WORK][1];
        _postSheet();
        _must(helper, _prove(_show(WORK, 1), _show(WORK, 2)));
        assertTrue(_leaf(WORK, 2).isVoid, "the larger index");
    }

    function test_TheSameBatchOtherLane() external {
        sheet[CHECKS][0] = sheet[WORK][2];
        _postSheet();
        _must(helper, _prove(_show(WORK, 2), _show(CHECKS, 0)));
        assertTrue(_leaf(CHECKS, 0).isVoid, "the larger lane, although its index is smaller");
    }

    function test_TheLaterBatchLosesWhateverItsLaneAndIndex() external {
        _postSheet();
        Shown memory first = _show(WORK, 2);
        sheet[WORK][0] = sheet[WORK][2];
        _postSheet();
        Shown memory second = _show(WORK, 0);
        _refuse(helper, _prove(second, first), _error(ErrorsLib.NoFault.selector));
        _must(helper, _prove(first, second));
    }

    /* WHAT IS NO DOUBLE */

    function test_RevertWhen_TheArgumentsAreTheWrongWayRound() external {
        sheet[WORK][2] = sheet[WORK][1];
        sheet[CHECKS][0] = sheet[WORK][1];
        _postSheet();
        bytes memory reason = _error(ErrorsLib.NoFault.selector);
        _refuse(helper, _prove(_show(WORK, 2), _show(WORK, 1)), reason);
        _refuse(helper, _prove(_show(CHECKS, 0), _show(WORK, 1)), reason);
        Shown memory first = _show(WORK, 1);
        _postSheet();
        _refuse(helper, _prove(_show(WORK, 1), first), reason);
    }

    function test_RevertWhen_ALeafIsComparedWithItself() external {
        _postSheet();
        _refuse(helper, _prove(_show(WORK, 0), _show(WORK, 0)), _error(ErrorsLib.NoFault.selector));
    }

    function test_RevertWhen_TheLinesAreTwo() external {
        _postSheet();
        _refuse(helper, _prove(_show(WORK, 0), _show(WORK, 1)), _error(ErrorsLib.NoFault.selector));
    }

    function test_RevertWhen_TheOrdersAreTwo() external {
        _postSheet();
        Shown memory first = _show(WORK, 0);
        Shown memory fee = _show(FEES, 0);
        _writeSheet();
        // Even if somebody writes the same evidence under both.
        sheet[WORK][0].evidenceHash = first.opening.leaf.evidenceHash;
        _postSheet();
        bytes memory reason = _error(ErrorsLib.NoFault.selector);
        _refuse(helper, _prove(first, _show(WORK, 0)), reason);
        _refuse(helper, _prove(fee, _show(FEES, 0)), reason);
    }

    function test_RevertWhen_TheCoordinatorsAreTwo() external {
        address other = _account("other coordinator");
        _bond(other, MIN_BOND);
        Shown memory first = Shown(_post(other, _sheetDraft()), _opening(WORK, 0));
        _postSheet();
        // Or one coordinator could make another's honest payment void.
        _refuse(helper, _prove(first, _show(WORK, 0)), _error(ErrorsLib.NoFault.selector));
        _refuse(helper, _prove(_show(WORK, 0), first), _error(ErrorsLib.NoFault.selector));
    }

    function test_RevertWhen_BothArePadding() external {
        _postSheet();
        Shown memory first = _show(WORK, 3);
        _postSheet();
        _refuse(helper, _prove(first, _show(WORK, 3)), _error(ErrorsLib.NoFault.selector));
    }

    function test_PayingAgainWhatWasTakenBackIsNoDouble() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        _proveBadLeaf(WORK, 0);
        Shown memory void = _show(WORK, 0);
        Asked memory asked = _askWithheld(CHECKS, 0);
        Shown memory voidWithItsLane = _show(CHECKS, 1);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        _bond(coordinator, 2 * BOND_SLASH);
        sheet[WORK][0] = _workLeaf(receipts[0]);
        _postSheet();
        bytes memory reason = _error(ErrorsLib.NoFault.selector);
        _refuse(helper, _prove(void, _show(WORK, 0)), reason);
        _refuse(helper, _prove(voidWithItsLane, _show(CHECKS, 1)), reason);
    }

    function test_APaymentInDisputeStillCounts() external {
        _postSheet();
        Shown memory first = _show(WORK, 0);
        _askLeaf(WORK, 0);
        _postSheet();
        _must(helper, _prove(first, _show(WORK, 0)));
    }

    function test_RevertWhen_TheLaterHasMatured() external {
        _postSheet();
        Shown memory first = _show(WORK, 0);
        _postSheet();
        Shown memory second = _show(WORK, 0);
        VM.warp(START + 2 * EPOCH);
        _refuse(helper, _prove(first, second), _error(ErrorsLib.CreditMatured.selector, 7001, 7000));
    }

    function test_TheEarlierMayHaveMaturedLongAgo() external {
        order.settleBy = uint64(START + 100 days);
        _postSheet();
        Shown memory first = _show(WORK, 0);
        VM.warp(START + 50 days);
        settlement.claim(provider);
        _postSheet();
        _must(helper, _prove(first, _show(WORK, 0)));
    }

    /* INTERNAL */

    function _show(uint16 lane, uint32 index) internal view returns (Shown memory) {
        return Shown(batch, _opening(lane, index));
    }

    function _prove(Shown memory first, Shown memory second) internal view returns (bytes memory) {
        IDisputes.Evidence memory none;
        return abi.encodeCall(
            disputes.proveDouble, (first.batch, first.opening, second.batch, second.opening, none)
        );
    }
}
