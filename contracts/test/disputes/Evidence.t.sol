// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice Each reason for which evidence does not make a payment right. Whoever posted it then cannot
/// answer, and loses it.
contract EvidenceTest is Market {
    /* ORDER */

    function test_RevertWhen_TheOrderIsAnother() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(WORK, 0);
        ++evidence.order.nonce;
        _refuseEvidence(
            WORK,
            0,
            evidence,
            _wrongHash("order", sheet[WORK][0].orderHash, Hashing.hash(evidence.order))
        );
    }

    function test_RevertWhen_TheRequesterDidNotSign() external {
        _postSheet();
        address[3] memory signers = [coordinator, provider, verifier];
        for (uint16 lane = 0; lane < 3; ++lane) {
            IDisputes.Evidence memory evidence = _evidence(lane, 0);
            evidence.orderSignature = _sign(signers[lane], Hashing.hash(order));
            _refuseEvidence(lane, 0, evidence, _wrongSigner(requester, signers[lane]));
        }
    }

    function test_RevertWhen_TheSignatureHasAnotherForm() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        IDisputes.Evidence memory evidence = _evidence(WORK, 0);
        bytes memory good = evidence.orderSignature;
        (bytes32 r, bytes32 s, uint8 v) = _split(good);
        bytes32 high = bytes32(ORDER_OF_CURVE - uint256(s));
        bytes32 compact = v == 28 ? s | bytes32(uint256(1) << 255) : s;
        bytes[5] memory others = [
            abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)),
            abi.encodePacked(r, compact),
            bytes.concat(good, hex"00"),
            abi.encodePacked(r, s, v - 27),
            bytes("")
        ];
        for (uint256 i = 0; i < others.length; ++i) {
            evidence.orderSignature = others[i];
            _refuse(helper, _answerWith(asked, evidence), _wrongSigner(requester, address(0)));
        }
        evidence.orderSignature = good;
        _must(helper, _answerWith(asked, evidence));
    }

    /// @notice The zero address is what a bad signature recovers to; it must not count as a signer.
    function test_RevertWhen_AnOrderOfNobodyIsUnsigned() external {
        requester = address(0);
        order.requester = address(0);
        bytes32 orderHash = Hashing.hash(order);
        delete sheet[FEES];
        sheet[FEES].push(_feeLeaf());
        sheet[FEES][0].price = 0;
        for (uint16 lane = 0; lane < 2; ++lane) {
            for (uint256 i = 0; i < sheet[lane].length; ++i) {
                sheet[lane][i].price = 0;
            }
        }
        _postSheet();
        IDisputes.Evidence memory evidence;
        evidence.order = order;
        assertEq(sheet[FEES][0].orderHash, orderHash, "its fee");
        _refuseEvidence(FEES, 0, evidence, _wrongSigner(address(0), address(0)));
    }

    /* RECEIPT */

    function test_RevertWhen_TheReceiptIsAnother() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(WORK, 0);
        evidence.receipt.resultHash = keccak256("another result");
        _resign(evidence);
        _refuseEvidence(
            WORK,
            0,
            evidence,
            _wrongHash("receipt", sheet[WORK][0].evidenceHash, Hashing.hash(evidence.receipt))
        );
    }

    function test_RevertWhen_TheProviderDidNotSign() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(WORK, 0);
        evidence.receiptSignature = _sign(coordinator, Hashing.hash(receipts[0]));
        _refuseEvidence(WORK, 0, evidence, _wrongSigner(provider, coordinator));
    }

    function test_RevertWhen_TheReceiptIsOfAnotherOrder() external {
        receipts[0].orderHash = keccak256("another order");
        sheet[WORK][0].evidenceHash = Hashing.hash(receipts[0]);
        _postSheet();
        _refuseEvidence(
            WORK,
            0,
            _evidence(WORK, 0),
            _wrongHash("receipt.orderHash", sheet[WORK][0].orderHash, receipts[0].orderHash)
        );
    }

    function test_RevertWhen_TheReceiptIsOfAnotherUnit() external {
        // The receipt of unit 1 sold again as unit 3.
        sheet[WORK][0].line = 3;
        sheet[WORK][0].evidenceHash = Hashing.hash(receipts[1]);
        sheet[WORK][0].price = receipts[1].price;
        _postSheet();
        _refuseEvidence(WORK, 0, _evidence(WORK, 1), _error(ErrorsLib.WrongUnit.selector, 3, 1));
    }

    function test_RevertWhen_ThePriceIsNotTheReceipts() external {
        // Below the order's maximum, and still not what the provider asked.
        sheet[WORK][2].price = receipts[2].price + 1;
        sheet[WORK][1].price = receipts[1].price - 1;
        _postSheet();
        for (uint32 i = 1; i < 3; ++i) {
            _refuseEvidence(
                WORK,
                i,
                _evidence(WORK, i),
                _error(ErrorsLib.WrongPrice.selector, receipts[i].price, sheet[WORK][i].price)
            );
        }
    }

    function test_RevertWhen_ThePayeeIsNotTheProvider() external {
        payees[WORK] = helper;
        _postSheet();
        _refuseEvidence(
            WORK,
            0,
            _evidence(WORK, 0),
            abi.encodeWithSelector(
                ErrorsLib.WrongParty.selector, bytes32("provider"), helper, provider
            )
        );
    }

    /* ATTESTATION */

    function test_RevertWhen_TheAttestationIsAnother() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(CHECKS, 0);
        ++evidence.attestation.issuedAt;
        evidence.attestationSignature = _sign(verifier, Hashing.hash(evidence.attestation));
        _refuseEvidence(
            CHECKS,
            0,
            evidence,
            _wrongHash(
                "attestation", sheet[CHECKS][0].evidenceHash, Hashing.hash(evidence.attestation)
            )
        );
    }

    function test_RevertWhen_TheVerifierDidNotSign() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(CHECKS, 0);
        evidence.attestationSignature = _sign(coordinator, Hashing.hash(attestations[0]));
        _refuseEvidence(CHECKS, 0, evidence, _wrongSigner(verifier, coordinator));
    }

    function test_RevertWhen_TheAttestationIsAboutAnotherReceipt() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(CHECKS, 0);
        evidence.receipt = receipts[1];
        _resign(evidence);
        _refuseEvidence(
            CHECKS,
            0,
            evidence,
            _wrongHash(
                "attestation.receiptHash", Hashing.hash(receipts[1]), Hashing.hash(receipts[0])
            )
        );
    }

    function test_RevertWhen_TheCheckedReceiptIsUnsigned() external {
        _postSheet();
        IDisputes.Evidence memory evidence = _evidence(CHECKS, 0);
        evidence.receiptSignature = "";
        _refuseEvidence(CHECKS, 0, evidence, _wrongSigner(provider, address(0)));
    }

    function test_RevertWhen_TheCheckedReceiptIsOfAnotherOrder() external {
        receipts[0].orderHash = keccak256("another order");
        _attestTo(receipts[0], 1);
        _postSheet();
        _refuseEvidence(
            CHECKS,
            0,
            _evidence(CHECKS, 0),
            _wrongHash("receipt.orderHash", Hashing.hash(order), receipts[0].orderHash)
        );
    }

    function test_RevertWhen_TheCheckedReceiptIsOfNoUnit() external {
        receipts[0].unit = order.units;
        _attestTo(receipts[0], 1);
        _postSheet();
        _refuseEvidence(
            CHECKS,
            0,
            _evidence(CHECKS, 0),
            _error(ErrorsLib.WrongUnit.selector, order.units, order.units)
        );
    }

    function test_TheCheckedReceiptMayBeOfTheLastUnit() external {
        receipts[0].unit = order.units - 1;
        _attestTo(receipts[0], 1);
        _postSheet();
        _must(helper, _answer(_askLeaf(CHECKS, 0)));
    }

    function test_BothVerdictsArePaidAndNoOther() external {
        uint8[5] memory verdicts = [1, 2, 3, 0, 255];
        for (uint256 i = 0; i < verdicts.length; ++i) {
            _attestTo(receipts[0], verdicts[i]);
            _postSheet();
            if (verdicts[i] == 1 || verdicts[i] == 2) {
                _must(helper, _answer(_askLeaf(CHECKS, 0)));
            } else {
                _refuseEvidence(
                    CHECKS,
                    0,
                    _evidence(CHECKS, 0),
                    _error(ErrorsLib.WrongVerdict.selector, 1, verdicts[i])
                );
            }
        }
    }

    function test_RevertWhen_TheVerifierIsTheProvider() external {
        // A provider that is registered as a verifier, and checks its own work.
        provider = verifier;
        receipts[0] = _receipt(order, 0, verifier, UNIT_PRICE);
        _attestTo(receipts[0], 1);
        _postSheet();
        _refuseEvidence(
            CHECKS,
            0,
            _evidence(CHECKS, 0),
            abi.encodeWithSelector(ErrorsLib.NotIndependent.selector, verifier)
        );
    }

    function test_RevertWhen_TheVerifierIsNotRegistered() external {
        address nobody = _account("nobody");
        address asProvider = _account("provider too");
        _stakeProvider(asProvider, COLD, MIN_STAKE);
        address[2] memory payeesOfChecks = [nobody, asProvider];
        for (uint8 role = 0; role < 2; ++role) {
            payees[CHECKS] = payeesOfChecks[role];
            verifier = payeesOfChecks[role];
            _postSheet();
            _refuseEvidence(
                CHECKS, 0, _evidence(CHECKS, 0), _error(ErrorsLib.WrongRole.selector, 2, role)
            );
        }
    }

    function test_AVerifierThatHasLeftIsStillPaidForWhatItChecked() external {
        VM.prank(verifier);
        settlement.requestUnstake(verifier, MIN_STAKE);
        VM.warp(START + EXIT_DELAY);
        VM.prank(verifier);
        settlement.unstake(verifier);
        _writeSheet();
        _postSheet();
        _must(helper, _answer(_askLeaf(CHECKS, 0)));
    }

    /* OTHER CHAINS AND CONTRACTS */

    function test_RevertWhen_TheSignaturesAreOfAnotherChain() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        bytes memory answer = _answer(asked);
        VM.chainId(99);
        VM.prank(helper);
        (bool ok, bytes memory reason) = address(disputes).call(answer);
        assertTrue(!ok && bytes4(reason) == ErrorsLib.WrongSigner.selector, "old words are void");
        VM.chainId(31337);
        _must(helper, answer);
    }

    /* INTERNAL */

    function _refuseEvidence(
        uint16 lane,
        uint32 index,
        IDisputes.Evidence memory evidence,
        bytes memory reason
    ) internal {
        _refuse(helper, _answerWith(_askLeaf(lane, index), evidence), reason);
    }

    function _resign(IDisputes.Evidence memory evidence) internal view {
        evidence.receiptSignature = _sign(evidence.receipt.provider, Hashing.hash(evidence.receipt));
    }

    /// @dev The first check is of this receipt, with this verdict.
    function _attestTo(Hashing.Receipt memory receipt, uint8 verdict) internal {
        attestations[0] = _attestation(receipt, verdict);
        sheet[CHECKS][0].evidenceHash = Hashing.hash(attestations[0]);
    }
}
