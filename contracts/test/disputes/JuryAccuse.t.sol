// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {IJury} from "../../src/interfaces/IJury.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice What it takes to open a case.
contract JuryAccuseTest is Court {
    function test_TheCaseHoldsWhatJurorsAndPartiesNeed() external {
        uint256 id = _accuse(1);
        IJury.Case memory case_ = jury.caseOf(id);
        assertEq(case_.receiptHash, Hashing.hash(receipts[1]), "receipt");
        assertEq(
            keccak256(abi.encode(case_.place)),
            keccak256(abi.encode(_place(batch, _work(), 0, 1))),
            "place"
        );
        assertEq(case_.price, receipts[1].price, "price");
        assertEq(case_.stakeHeld, STAKE_SLASH, "stake");
        assertEq(case_.eligible, 40, "eligible");
        assertEq(case_.drawBlock, VM.getBlockNumber(), "draw block");
        assertEq(case_.parties.length, 1, "one party");
        assertEq(case_.parties[0].account, accuser, "who");
        assertTrue(case_.parties[0].accuses, "which side");
        assertTrue(_leaf(1).isAccused && _leaf(1).open == 1, "leaf");
    }

    function test_TheEventTellsTheWholeCase() external {
        IJury.Case memory case_;
        case_.place = _place(batch, _work(), 0, 0);
        case_.receiptHash = Hashing.hash(receipts[0]);
        case_.price = receipts[0].price;
        case_.isPosted = true;
        case_.stakeHeld = STAKE_SLASH;
        case_.eligible = eligible;
        case_.drawBlock = uint64(VM.getBlockNumber());
        case_.parties = new IJury.Party[](1);
        case_.parties[0] = IJury.Party({account: accuser, bond: JURY_BOND, accuses: true});
        bytes memory call_ = _accuseCall(0, eligible);
        VM.expectEmit(true, true, true, true, address(jury));
        emit EventsLib.CaseOpened(1, provider, accuser, case_);
        _must(accuser, call_);
    }

    function test_RevertWhen_TheReceiptIsOfAnotherLeaf() external {
        _refuse(
            _call(0, receipts[1], provider, eligible),
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("receipt"),
                Hashing.hash(receipts[0]),
                Hashing.hash(receipts[1])
            )
        );
    }

    function test_RevertWhen_ThePayeeDidNotSignTheReceipt() external {
        bytes memory call_ = _call(0, receipts[0], coordinator, eligible);
        _refuse(
            call_, abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, provider, coordinator)
        );
    }

    function test_RevertWhen_TheReceiptIsOfAnotherPayee() external {
        // A coordinator pays one provider for what another signed.
        receipts[0].provider = accuser;
        batch = _post(coordinator, _work());
        _refuse(
            _call(0, receipts[0], accuser, eligible),
            abi.encodeWithSelector(
                ErrorsLib.WrongParty.selector, bytes32("provider"), provider, accuser
            )
        );
    }

    function test_RevertWhen_TheReceiptIsOfAnotherOrder() external {
        Hashing.Leaf memory leaf = _workLeaf(receipts[0]);
        leaf.orderHash = keccak256("another order");
        Draft memory draft = _draft(requester, provider, _leaves(leaf));
        batch = _post(coordinator, draft);
        bytes memory signature = _sign(provider, Hashing.hash(receipts[0]));
        _refuse(
            abi.encodeCall(
                jury.accuse, (batch, _open(draft, 0, 0), receipts[0], signature, eligible)
            ),
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("receipt.orderHash"),
                leaf.orderHash,
                receipts[0].orderHash
            )
        );
    }

    function test_RevertWhen_TheLineIsACheck() external {
        // A check is paid for a verdict, and verdicts are not work: proveConflict is for them.
        Hashing.Leaf memory leaf = _workLeaf(receipts[0]);
        leaf.line = order.units;
        leaf.evidenceHash = Hashing.hash(_attestation(receipts[0], MATCH));
        leaf.price = CHECK_PRICE;
        Draft memory draft = _draft(requester, provider, _leaves(leaf));
        batch = _post(coordinator, draft);
        bytes memory signature = _sign(provider, Hashing.hash(receipts[0]));
        _refuse(
            abi.encodeCall(
                jury.accuse, (batch, _open(draft, 0, 0), receipts[0], signature, eligible)
            ),
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("receipt"),
                leaf.evidenceHash,
                Hashing.hash(receipts[0])
            )
        );
    }

    function test_RevertWhen_TheLeafIsAccusedAlready() external {
        _accuse(0);
        _refuse(
            _accuseCall(0, eligible), abi.encodeWithSelector(ErrorsLib.AlreadyDisputed.selector)
        );
    }

    function test_RevertWhen_TheLeafWasJudged() external {
        for (uint8 verdict = MATCH; verdict <= MISMATCH; ++verdict) {
            _begin(5);
            uint256 id = _accuse(0);
            _close(id, _judge(id, verdict));
            _refuse(
                _accuseCall(0, eligible), abi.encodeWithSelector(ErrorsLib.AlreadyJudged.selector)
            );
        }
    }

    function test_ALeafThatWasNotJudgedCanBeAccusedAgain() external {
        _begin(0);
        uint256 id = _accuse(0);
        for (uint8 level = 0; level < 2; ++level) {
            VM.warp(START + EPOCH);
            _letLapse(id);
            jury.escalate(id);
        }
        _letLapse(id);
        jury.close(id, _noVoters());
        assertTrue(_accuse(0) == id + 1, "a new case");
    }

    function test_AccusingEndsWithTheLastSecondOfCredit() external {
        VM.warp(START + 3 * EPOCH - 1);
        _accuse(0);
        VM.warp(START + 3 * EPOCH);
        uint256 epoch = (START + EPOCH) / EPOCH;
        _refuse(
            _accuseCall(1, eligible),
            abi.encodeWithSelector(ErrorsLib.CreditMatured.selector, epoch + 1, epoch)
        );
    }

    /// @dev Work that was paid nothing is no exception from the time limit, or its provider could be
    /// accused for ever.
    function test_RevertWhen_UnpaidWorkIsOld() external {
        receipts[0].price = 0;
        batch = _post(coordinator, _work());
        VM.warp(START + 3 * EPOCH);
        uint256 epoch = (START + EPOCH) / EPOCH;
        _refuse(
            _accuseCall(0, eligible),
            abi.encodeWithSelector(ErrorsLib.CreditMatured.selector, epoch + 1, epoch)
        );
    }

    function test_RevertWhen_TheAccuserHasNoBond() external {
        _deposit(STRANGER, JURY_BOND - 1);
        _refuseBy(
            STRANGER,
            address(jury),
            _accuseCall(0, eligible),
            abi.encodeWithSelector(
                ErrorsLib.InsufficientBalance.selector, STRANGER, JURY_BOND, JURY_BOND - 1
            )
        );
    }

    function test_EligibleIsExact() external {
        // Listed a second too late to count.
        VM.warp(START + 1);
        address late = _account("late verifier");
        _stakeVerifier(late, COLD, MIN_STAKE);
        VM.warp(START + EPOCH);
        batch = _post(coordinator, _work());
        for (uint32 count = 38; count < 43; ++count) {
            if (count == 40) continue;
            bytes memory call_ = _accuseCall(0, count);
            _refuse(call_, abi.encodeWithSelector(ErrorsLib.WrongEligible.selector, 41, count));
        }
        _accuse(0);
        // A second later it does.
        VM.warp(START + EPOCH + 1);
        batch = _post(coordinator, _work());
        bytes memory tooFew = _accuseCall(0, 40);
        _refuse(tooFew, abi.encodeWithSelector(ErrorsLib.WrongEligible.selector, 41, 40));
        eligible = 41;
        _accuse(0);
    }

    function test_EligibleIsZeroWithoutVerifiers() external {
        _begin(0);
        _refuse(_accuseCall(0, 1), abi.encodeWithSelector(ErrorsLib.WrongEligible.selector, 0, 1));
        _accuse(0);
    }

    function test_RevertWhen_SomebodyElseHoldsOrReleases() external {
        IDisputes.Opening memory opening = _open(_work(), 0, 0);
        IDisputes.Place memory place = _place(batch, _work(), 0, 0);
        bytes memory refusal =
            abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, address(jury), address(this));
        VM.expectRevert(refusal);
        disputes.holdForJury(batch, opening);
        VM.expectRevert(refusal);
        disputes.endHold(place, receipts[0].price, MISMATCH);
    }

    /* INTERNAL */

    function _call(uint32 index, Hashing.Receipt memory receipt, address signer, uint32 count)
        internal
        view
        returns (bytes memory)
    {
        bytes memory signature = _sign(signer, Hashing.hash(receipt));
        IDisputes.Opening memory opening = _open(_work(), 0, index);
        return abi.encodeCall(jury.accuse, (batch, opening, receipt, signature, count));
    }
}
