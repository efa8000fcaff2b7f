// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice Every fault that an order alone shows, and next to each the last payment without it. The
/// same rule refuses an answer to a challenge, so each test asks both ways.
contract BadLeafTest is Market {
    /* WHAT HAPPENS */

    function test_ABadLeafIsVoidAndCostsTheCoordinator() external {
        sheet[WORK][1].price = UNIT_PRICE + 1;
        _postSheet();
        IDisputes.Opening memory opening = _opening(WORK, 1);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.LeafVoided(coordinator, 0, WORK, 1, UNIT_PRICE + 1, IDisputes.Cause.BAD_LEAF);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Slashed(
            coordinator, helper, requester, BOND_SLASH, BOND_SLASH / 8, BOND_SLASH / 4, 0
        );
        VM.prank(helper);
        disputes.proveBadLeaf(batch, opening, order);
        uint256 spent = _amount(WORK) + _amount(CHECKS) + FEE - (UNIT_PRICE + 1);
        assertEq(_escrow(requester), FUNDS - spent + BOND_SLASH / 4, "refund and share");
        assertEq(_credit(provider), receipts[0].price + receipts[2].price, "the rest is paid");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "slashed");
        assertEq(_credit(helper), BOND_SLASH / 8, "reward");
        assertTrue(_leaf(WORK, 1).isVoid, "void");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, opening, order)),
            _error(ErrorsLib.AlreadyVoid.selector)
        );
    }

    function test_AnHonestBatchHasNoFault() external {
        _postSheet();
        for (uint16 lane = 0; lane < 3; ++lane) {
            for (uint32 i = 0; i < sheet[lane].length; ++i) {
                _refuseProof(lane, i);
            }
        }
    }

    function test_RevertWhen_TheOrderIsAnother() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Hashing.Order memory other = order;
        other.maxUnitPrice = 1;
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, 0), other)),
            _wrongHash("order", sheet[WORK][0].orderHash, Hashing.hash(other))
        );
    }

    function test_RevertWhen_PaddingIsCalledBad() external {
        _postSheet();
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, 3), order)),
            _wrongHash("order", 0, Hashing.hash(order))
        );
    }

    /* UNTIL WHEN */

    function test_ABadLeafCanBeProvenUntilItsCreditMatures() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        sheet[WORK][1].price = UNIT_PRICE + 1;
        _postSheet();
        VM.warp(START + 2 * EPOCH - 1);
        _proveBadLeaf(WORK, 0);
        VM.warp(START + 2 * EPOCH);
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, 1), order)),
            _error(ErrorsLib.CreditMatured.selector, 7001, 7000)
        );
    }

    function test_ABadLeafOfNothingIsNotPunishedForEver() external {
        sheet[WORK][0].line = 100;
        sheet[WORK][0].price = 0;
        _postSheet();
        VM.warp(START + 2 * EPOCH);
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, 0), order)),
            _error(ErrorsLib.CreditMatured.selector, 7001, 7000)
        );
        assertEq(_bondOf(coordinator), MIN_BOND, "not slashed");
    }

    function test_ABadLeafInDisputeCanBeProvenLater() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        _askLeaf(WORK, 0);
        VM.warp(START + 100 days);
        _proveBadLeaf(WORK, 0);
        assertEq(settlement.held(), CHALLENGE_BOND, "the price was held, and is refunded");
    }

    function test_ABadLeafOfAHeldLaneIsTakenOutOfIt() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askWithheld(WORK, 1);
        VM.warp(START + 100 days);
        _proveBadLeaf(WORK, 0);
        assertEq(_laneRecord(WORK).held, receipts[1].price + receipts[2].price, "the rest");
        _timeout(asked);
        uint256 kept = _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "the lane, once");
        assertEq(settlement.held(), 0, "held");
    }

    function test_RevertWhen_TheLaneIsVoidAlready() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askWithheld(WORK, 1);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, 0), order)),
            _error(ErrorsLib.AlreadyVoid.selector)
        );
        assertEq(settlement.held(), 0, "held");
    }

    /* PARTIES */

    function test_WrongRequester() external {
        address victim = _account("victim");
        _deposit(victim, FUNDS);
        Draft memory draft = _sheetDraft();
        draft.requesters = _one(victim);
        batch = _post(coordinator, draft);
        _proveBadLeaf(WORK, 0);
        assertTrue(_leaf(WORK, 0).isVoid, "void");
        uint256 spent = _amount(WORK) + _amount(CHECKS) + FEE - receipts[0].price;
        assertEq(_escrow(victim), FUNDS - spent + BOND_SLASH / 4, "to whom was charged");
        assertEq(_escrow(requester), FUNDS, "not to whom the order names");
    }

    function test_WrongCoordinator() external {
        address other = _account("other coordinator");
        _bond(other, MIN_BOND);
        batch = _post(other, _sheetDraft());
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.WRONG_COORDINATOR));
        _proveBadLeaf(WORK, 0);
        assertEq(_bondOf(other), MIN_BOND - BOND_SLASH, "who posted is slashed");
        assertEq(_bondOf(coordinator), MIN_BOND, "who was named is not");
    }

    function test_WrongProviderIsAFaultOfWorkOnly() external {
        order.provider = helper;
        _relink();
        _postSheet();
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.WRONG_PROVIDER));
        _proveBadLeaf(WORK, 0);
        // The last line of work, and the first that is none.
        _proveBadLeaf(WORK, 2);
        _refuseProof(CHECKS, 0);
        _refuseProof(FEES, 0);
    }

    function test_TheNamedProviderIsNoFault() external {
        order.provider = provider;
        _relink();
        _postSheet();
        _refuseProof(WORK, 0);
    }

    /* LINES */

    function test_NoSuchLine() external {
        sheet[WORK][0].line = order.units + order.checks + 1;
        sheet[WORK][1].line = type(uint32).max;
        sheet[WORK][0].price = 0;
        _postSheet();
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.NO_SUCH_LINE));
        _proveBadLeaf(WORK, 0);
        _proveBadLeaf(WORK, 1);
    }

    function test_LinesOfAnOrderThatFillsThirtyTwoBits() external {
        order.units = type(uint32).max;
        order.checks = type(uint32).max;
        _relink();
        sheet[WORK][0].line = type(uint32).max;
        sheet[WORK][0].price = CHECK_PRICE;
        _postSheet();
        // The sum is not taken modulo 2^32: this line is a check, not the fee.
        _refuseProof(WORK, 0);
    }

    /* PRICES */

    function test_PricesUpToTheMaximumAreNoFault() external {
        sheet[WORK][0].price = UNIT_PRICE;
        sheet[CHECKS][0].price = CHECK_PRICE;
        sheet[FEES][0].price = FEE;
        _postSheet();
        _refuseProof(WORK, 0);
        _refuseProof(CHECKS, 0);
        _refuseProof(FEES, 0);
    }

    function test_OneUnitAboveTheMaximumIsAFault() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        sheet[CHECKS][0].price = CHECK_PRICE + 1;
        sheet[FEES][0].price = FEE + 1;
        _postSheet();
        bytes memory reason = _faulty(IDisputes.LeafFault.PRICE_TOO_HIGH);
        for (uint16 lane = 0; lane < 3; ++lane) {
            _refuseAnswer(_askLeaf(lane, 0), reason);
            _proveBadLeaf(lane, 0);
        }
        assertEq(_bondOf(coordinator), MIN_BOND - 3 * BOND_SLASH, "three lanes, three slashes");
    }

    function test_EachKindOfLineHasItsOwnMaximum() external {
        // Both are below the price of work, and too much for what they are.
        uint32 units = order.units;
        sheet[WORK][0].line = units;
        sheet[WORK][1].line = units + order.checks - 1;
        sheet[WORK][2].line = units - 1;
        sheet[WORK][0].price = CHECK_PRICE + 1;
        sheet[WORK][1].price = CHECK_PRICE + 1;
        _postSheet();
        _proveBadLeaf(WORK, 0);
        _proveBadLeaf(WORK, 1);
        _refuseProof(WORK, 2);
    }

    /* TIME */

    function test_PostingInTheLastSecondIsNoFault() external {
        VM.warp(order.settleBy);
        _postSheet();
        _refuseProof(WORK, 0);
        _must(helper, _answer(_askLeaf(FEES, 0)));
    }

    function test_PostingASecondLateIsAFault() external {
        VM.warp(order.settleBy + 1);
        _postSheet();
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.TOO_LATE));
        _proveBadLeaf(WORK, 0);
        _proveBadLeaf(CHECKS, 0);
        _proveBadLeaf(FEES, 0);
    }

    /* FEES */

    function test_AFeeToAnotherIsAFault() external {
        payees[FEES] = helper;
        _postSheet();
        _refuseAnswer(_askLeaf(FEES, 0), _faulty(IDisputes.LeafFault.WRONG_FEE));
        _proveBadLeaf(FEES, 0);
    }

    function test_AFeeForSomethingElseIsAFault() external {
        sheet[FEES][0].evidenceHash = Hashing.feeEvidence(keccak256("another order"));
        _postSheet();
        _refuseAnswer(_askLeaf(FEES, 0), _faulty(IDisputes.LeafFault.WRONG_FEE));
        _proveBadLeaf(FEES, 0);
    }

    function test_TheFeeOfAnOrderWithoutUnitsIsLineZero() external {
        (order.units, order.checks) = (0, 0);
        _relink();
        sheet[FEES][0].line = 0;
        sheet[WORK][0].line = 1;
        _postSheet();
        _refuseProof(FEES, 0);
        _proveBadLeaf(WORK, 0);
    }

    /* WHICH ONE */

    function test_TheFirstFaultIsNamed() external {
        // Everything is wrong; what is repaired uncovers the next.
        address other = _account("other coordinator");
        _bond(other, MIN_BOND);
        order.provider = helper;
        order.settleBy = uint64(START) - 1;
        _relink();
        sheet[WORK][0].price = UNIT_PRICE + 1;
        batch = _post(other, _sheetDraft());
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.WRONG_COORDINATOR));
        _postSheet();
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.WRONG_PROVIDER));
        order.provider = address(0);
        _relink();
        _postSheet();
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.PRICE_TOO_HIGH));
        sheet[WORK][0].price = UNIT_PRICE;
        _postSheet();
        _refuseAnswer(_askLeaf(WORK, 0), _faulty(IDisputes.LeafFault.TOO_LATE));
    }

    /* INTERNAL */

    /// @dev The sheet's leaves name the order as it is now.
    function _relink() internal {
        bytes32 orderHash = Hashing.hash(order);
        for (uint256 lane = 0; lane < sheet.length; ++lane) {
            for (uint256 i = 0; i < sheet[lane].length; ++i) {
                sheet[lane][i].orderHash = orderHash;
            }
        }
        sheet[FEES][0].evidenceHash = Hashing.feeEvidence(orderHash);
    }

    function _refuseProof(uint16 lane, uint32 index) internal {
        _refuse(
            helper,
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(lane, index), order)),
            _error(ErrorsLib.NoFault.selector)
        );
    }
}
