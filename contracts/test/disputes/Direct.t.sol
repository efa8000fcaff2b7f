// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {DirectScene} from "./DirectScene.sol";

/// @notice What a provider must show to be paid without its coordinator.
contract DirectTest is DirectScene {
    /* PAYING */

    function test_ItMovesThePriceFromEscrowToCreditThatMatures() external {
        VM.warp(START + 3 * EPOCH);
        order.settleBy = uint64(START + 3 * EPOCH - 1);
        order.expiry = uint64(START + 4 * EPOCH);
        Claim memory claim = _accepted(LEFT_OUT);
        uint256 before = _escrow(requester);
        uint256 ready = _ready(provider);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.DirectSettled(
            0,
            requester,
            provider,
            uint64(START + 3 * EPOCH),
            Hashing.hash(order),
            LEFT_OUT,
            Hashing.hash(claim.evidence.receipt),
            UNIT_PRICE
        );
        IDisputes.Batch memory made = _settle(claim);
        assertEq(_escrow(requester), before - UNIT_PRICE, "escrow");
        assertEq(_maturing(provider), UNIT_PRICE, "young credit");
        assertEq(_ready(provider), ready, "nothing to claim yet");
        assertEq(disputes.directOf(0), _hashOf(made), "as a batch of one leaf");
        assertTrue(disputes.isSettledDirectly(Hashing.hash(order), LEFT_OUT), "line");
        assertEq(settlement.held(), 0, "held");
        VM.warp(START + 5 * EPOCH - 1);
        assertEq(_maturing(provider), UNIT_PRICE, "not earlier than other credit");
        VM.warp(START + 5 * EPOCH);
        assertEq(_ready(provider), ready + UNIT_PRICE, "nor later");
    }

    /// @dev Others could settle what a batch has paid, to have the provider slashed for it.
    function test_OnlyTheProviderOrItsPayoutAddress() external {
        address[3] memory others = [STRANGER, requester, coordinator];
        for (uint256 i = 0; i < 3; ++i) {
            _refuseBy(
                others[i],
                address(disputes),
                _callOf(_accepted(LEFT_OUT)),
                abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, provider, others[i])
            );
        }
        _must(COLD, address(disputes), _callOf(_accepted(LEFT_OUT)));
        _must(provider, address(disputes), _callOf(_accepted(2)));
    }

    function test_EachLineOnce() external {
        _settle(_accepted(LEFT_OUT));
        bytes memory refusal = abi.encodeWithSelector(ErrorsLib.AlreadySettled.selector);
        _refuseClaim(_accepted(LEFT_OUT), refusal);
        // Nor by another receipt, price or way.
        _refuseClaim(_accepted(_receipt(order, LEFT_OUT, provider, 1)), refusal);
        _refuseClaim(_attested(LEFT_OUT, verifiers[0], MATCH), refusal);
        assertEq(_settle(_accepted(2)).seq, 1, "another line is another settlement");
    }

    function test_NumbersCountUpOverAllParties() external {
        for (uint32 unit = 0; unit < 4; ++unit) {
            assertEq(_settle(_accepted(unit)).seq, unit, "number");
        }
    }

    /* TIME */

    function test_FromTheSecondAfterSettleByToExpiry() external {
        VM.warp(order.settleBy);
        _refuseClaim(
            _accepted(0),
            abi.encodeWithSelector(ErrorsLib.TooEarly.selector, order.settleBy + 1, order.settleBy)
        );
        VM.warp(order.settleBy + 1);
        _settle(_accepted(0));
        VM.warp(order.expiry);
        _settle(_accepted(1));
        VM.warp(order.expiry + 1);
        _refuseClaim(
            _accepted(2),
            abi.encodeWithSelector(ErrorsLib.TooLate.selector, order.expiry, order.expiry + 1)
        );
    }

    /* ORDER AND RECEIPT */

    function test_RevertWhen_TheRequesterDidNotSignTheOrder() external {
        Claim memory claim = _accepted(LEFT_OUT);
        claim.evidence.orderSignature = _sign(provider, Hashing.hash(order));
        _refuseClaim(claim, _wrongSigner(requester, provider));
    }

    function test_RevertWhen_TheProviderDidNotSignTheReceipt() external {
        Claim memory claim = _accepted(LEFT_OUT);
        claim.evidence.receiptSignature = _sign(coordinator, Hashing.hash(claim.evidence.receipt));
        _refuseClaim(claim, _wrongSigner(provider, coordinator));
    }

    function test_RevertWhen_TheReceiptIsOfAnotherOrder() external {
        Claim memory claim = _accepted(LEFT_OUT);
        bytes32 expected = Hashing.hash(order);
        ++order.nonce;
        claim.evidence.order = order;
        claim.evidence.orderSignature = _sign(requester, Hashing.hash(order));
        _refuseClaim(
            claim,
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("receipt.orderHash"),
                Hashing.hash(order),
                expected
            )
        );
    }

    function test_RevertWhen_TheLineIsNoUnit() external {
        for (uint32 line = order.units; line < order.units + 3; ++line) {
            _refuseClaim(
                _accepted(line), abi.encodeWithSelector(ErrorsLib.WrongUnit.selector, line, line)
            );
        }
    }

    function test_RevertWhen_ThePriceIsAboveTheOrders() external {
        Claim memory claim = _accepted(_receipt(order, LEFT_OUT, provider, UNIT_PRICE + 1));
        claim.assignment.maxPrice = UNIT_PRICE + 1;
        _signAssignment(claim, coordinator);
        uint8 fault = uint8(IDisputes.LeafFault.PRICE_TOO_HIGH);
        _refuseClaim(claim, abi.encodeWithSelector(ErrorsLib.FaultyLeaf.selector, fault));
    }

    function test_RevertWhen_TheEscrowIsGone() external {
        for (uint32 unit = 0; unit < 3; ++unit) {
            _settle(_accepted(unit));
        }
        // Escrow that is asked back still pays.
        uint256 rest = _escrow(requester);
        VM.prank(requester);
        settlement.requestWithdraw(rest);
        _settle(_accepted(LEFT_OUT));
        _begin(1);
        VM.prank(requester);
        settlement.requestWithdraw(FUNDS - _total());
        order = _order(requester, coordinator);
        order.settleBy = uint64(VM.getBlockTimestamp());
        order.expiry = order.settleBy + EXIT_DELAY + 1;
        VM.warp(order.expiry);
        VM.prank(requester);
        settlement.withdraw(requester);
        _refuseClaim(
            _accepted(LEFT_OUT),
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, requester, UNIT_PRICE, 0)
        );
    }

    /* PROVIDER */

    function test_RevertWhen_TheProviderIsNotStaked() external {
        VM.prank(provider);
        settlement.requestUnstake(provider, MIN_STAKE);
        _refuseClaim(
            _accepted(LEFT_OUT),
            abi.encodeWithSelector(ErrorsLib.StakeTooSmall.selector, MIN_STAKE, 0)
        );
        VM.prank(provider);
        settlement.requestUnstake(provider, 0);
        _settle(_accepted(LEFT_OUT));
    }

    /// @dev A case holds stake, so an accused provider tops up before it settles directly.
    function test_AnAccusedProviderTopsUpFirst() external {
        _accuse(0);
        _refuseClaim(
            _accepted(LEFT_OUT),
            abi.encodeWithSelector(
                ErrorsLib.StakeTooSmall.selector, MIN_STAKE, MIN_STAKE - STAKE_SLASH
            )
        );
        _stakeProvider(provider, COLD, STAKE_SLASH);
        _settle(_accepted(LEFT_OUT));
    }

    function test_RevertWhen_TheProviderIsNone() external {
        address[2] memory others = [verifiers[0], accuser];
        ISettlement.Role[2] memory roles = [ISettlement.Role.VERIFIER, ISettlement.Role.NONE];
        for (uint256 i = 0; i < 2; ++i) {
            _refuseBy(
                others[i],
                address(disputes),
                _callOf(_accepted(_receipt(order, LEFT_OUT, others[i], UNIT_PRICE))),
                abi.encodeWithSelector(
                    ErrorsLib.WrongRole.selector, ISettlement.Role.PROVIDER, roles[i]
                )
            );
        }
    }

    function test_AnOrderThatNamesItsProviderNeedsNoAssignment() external {
        order.provider = provider;
        Claim memory claim = _accepted(LEFT_OUT);
        delete claim.assignment;
        claim.assignmentSignature = "";
        _settle(claim);
    }

    function test_RevertWhen_TheOrderNamesAnotherProvider() external {
        order.provider = accuser;
        _refuseClaim(
            _accepted(LEFT_OUT),
            abi.encodeWithSelector(
                ErrorsLib.WrongParty.selector, bytes32("provider"), accuser, provider
            )
        );
    }

    /* ASSIGNMENT */

    function test_RevertWhen_TheAssignmentIsNotTheCoordinators() external {
        Claim memory claim = _accepted(LEFT_OUT);
        _signAssignment(claim, provider);
        _refuseClaim(claim, _wrongSigner(coordinator, provider));
        claim.assignmentSignature = "";
        _refuseClaim(claim, _wrongSigner(coordinator, address(0)));
    }

    function test_RevertWhen_TheAssignmentIsForSomethingElse() external {
        Claim memory claim = _accepted(LEFT_OUT);
        claim.assignment.orderHash = keccak256("another order");
        _refuseAssignment(
            claim,
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("assignment.orderHash"),
                Hashing.hash(order),
                claim.assignment.orderHash
            )
        );
        claim = _accepted(LEFT_OUT);
        claim.assignment.provider = accuser;
        _refuseAssignment(
            claim,
            abi.encodeWithSelector(
                ErrorsLib.WrongParty.selector, bytes32("assignment.provider"), provider, accuser
            )
        );
        claim = _accepted(LEFT_OUT);
        claim.assignment.unit = 2;
        _refuseAssignment(claim, abi.encodeWithSelector(ErrorsLib.WrongUnit.selector, LEFT_OUT, 2));
    }

    function test_TheAssignmentsPriceIsACapToo() external {
        Claim memory claim = _accepted(LEFT_OUT);
        claim.assignment.maxPrice = UNIT_PRICE - 1;
        _refuseAssignment(
            claim, abi.encodeWithSelector(ErrorsLib.WrongPrice.selector, UNIT_PRICE - 1, UNIT_PRICE)
        );
    }

    function test_WorkMustBeFinishedWhileReserved() external {
        Claim memory claim = _accepted(LEFT_OUT);
        uint64 finishedAt = claim.evidence.receipt.finishedAt;
        claim.assignment.reservedUntil = finishedAt - 1;
        _refuseAssignment(
            claim, abi.encodeWithSelector(ErrorsLib.TooLate.selector, finishedAt - 1, finishedAt)
        );
        claim.assignment.reservedUntil = finishedAt;
        _signAssignment(claim, coordinator);
        _settle(claim);
    }

    /* WHO SAW THE WORK */

    function test_AVerifiersMatchIsAsGoodAsTheRequestersWord() external {
        _settle(_attested(LEFT_OUT, verifiers[0], MATCH));
    }

    function test_RevertWhen_NobodySawTheWork() external {
        Claim memory claim = _bare(_receipt(order, LEFT_OUT, provider, UNIT_PRICE));
        _refuseClaim(claim, abi.encodeWithSelector(ErrorsLib.WrongVerdict.selector, MATCH, 0));
        for (uint8 verdict = MISMATCH; verdict <= INCONCLUSIVE; ++verdict) {
            _refuseClaim(
                _attested(LEFT_OUT, verifiers[0], verdict),
                abi.encodeWithSelector(ErrorsLib.WrongVerdict.selector, MATCH, verdict)
            );
        }
    }

    function test_RevertWhen_TheAcceptanceIsNotTheRequesters() external {
        Claim memory claim = _attested(LEFT_OUT, verifiers[0], MATCH);
        // A bad acceptance is not overlooked for a good attestation.
        claim.acceptanceSignature =
            _sign(provider, Hashing.acceptance(Hashing.hash(claim.evidence.receipt)));
        _refuseClaim(claim, _wrongSigner(requester, provider));
    }

    function test_RevertWhen_TheAttestationIsOfAnotherReceipt() external {
        Claim memory claim = _attested(LEFT_OUT, verifiers[0], MATCH);
        Claim memory other = _attested(2, verifiers[0], MATCH);
        claim.evidence.attestation = other.evidence.attestation;
        claim.evidence.attestationSignature = other.evidence.attestationSignature;
        _refuseClaim(
            claim,
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("attestation.receiptHash"),
                Hashing.hash(claim.evidence.receipt),
                Hashing.hash(other.evidence.receipt)
            )
        );
    }

    function test_RevertWhen_TheVerifierIsNone() external {
        ISettlement.Role[3] memory roles =
            [ISettlement.Role.NONE, ISettlement.Role.NONE, ISettlement.Role.PROVIDER];
        address other = _account("other provider");
        _stakeProvider(other, STRANGER, MIN_STAKE);
        address[3] memory signers = [accuser, coordinator, other];
        for (uint256 i = 0; i < 3; ++i) {
            _refuseClaim(
                _attested(LEFT_OUT, signers[i], MATCH),
                abi.encodeWithSelector(
                    ErrorsLib.WrongRole.selector, ISettlement.Role.VERIFIER, roles[i]
                )
            );
        }
        Claim memory claim = _attested(LEFT_OUT, verifiers[0], MATCH);
        claim.evidence.attestationSignature = "";
        _refuseClaim(
            claim,
            abi.encodeWithSelector(
                ErrorsLib.WrongRole.selector, ISettlement.Role.VERIFIER, ISettlement.Role.NONE
            )
        );
    }

    function test_RevertWhen_TheVerifierHasLeft() external {
        VM.prank(verifiers[0]);
        settlement.requestUnstake(verifiers[0], MIN_STAKE);
        _refuseClaim(
            _attested(LEFT_OUT, verifiers[0], MATCH),
            abi.encodeWithSelector(ErrorsLib.StakeTooSmall.selector, MIN_STAKE, 0)
        );
    }

    function test_RevertWhen_TheVerifierIsPaidWhereTheProviderIs() external {
        VM.prank(_payout(0));
        settlement.changePayout(verifiers[0], COLD);
        _refuseClaim(_attested(LEFT_OUT, verifiers[0], MATCH), _notIndependent(verifiers[0]));
        _refuseClaim(_attested(LEFT_OUT, provider, MATCH), _notIndependent(provider));
    }

    /* INTERNAL */

    function _refuseAssignment(Claim memory claim, bytes memory expected) internal {
        _signAssignment(claim, coordinator);
        _refuseClaim(claim, expected);
    }

    function _wrongSigner(address expected, address actual) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, expected, actual);
    }

    function _notIndependent(address verifier) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ErrorsLib.NotIndependent.selector, verifier);
    }

    function _hashOf(IDisputes.Batch memory made) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                made.postedAt, made.dataHash, made.root, made.requesters, made.payees, made.lanes
            )
        );
    }
}
