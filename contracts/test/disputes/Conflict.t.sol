// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Market} from "./Market.sol";

/// @notice A verifier that signs both verdicts on one receipt.
contract ConflictTest is Market {
    Hashing.Attestation internal yes;
    Hashing.Attestation internal no;

    function setUp() public override {
        super.setUp();
        yes = _attestation(receipts[0], 1);
        no = _attestation(receipts[0], 2);
    }

    function test_TwoVerdictsOnOneReceiptCostTheVerifier() external {
        bytes memory call_ = _conflict(verifier, verifier);
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Slashed(verifier, helper, address(0), STAKE_SLASH, STAKE_SLASH / 8, 0, 0);
        _must(helper, call_);
        assertEq(_stakeOf(verifier), MIN_STAKE - STAKE_SLASH, "slashed");
        assertEq(_credit(helper), STAKE_SLASH / 8, "reward");
        assertEq(settlement.burnt(), STAKE_SLASH - STAKE_SLASH / 8, "nobody else is known harmed");
        _assertConserved();
    }

    function test_EachReceiptCostsOneSlash() external {
        _must(helper, _conflict(verifier, verifier));
        _refuse(helper, _conflict(verifier, verifier), _error(ErrorsLib.AlreadyJudged.selector));
        no.evidenceHash = keccak256("other traces");
        no.issuedAt += 1;
        _refuse(helper, _conflict(verifier, verifier), _error(ErrorsLib.AlreadyJudged.selector));
        yes = _attestation(receipts[1], 1);
        no = _attestation(receipts[1], 2);
        _must(helper, _conflict(verifier, verifier));
        assertEq(_stakeOf(verifier), 0, "the rest, not more");
    }

    function test_EachVerifierIsJudgedForItself() external {
        address other = _account("other verifier");
        _stakeVerifier(other);
        _must(helper, _conflict(verifier, verifier));
        _must(helper, _conflict(other, other));
        assertEq(_stakeOf(other), MIN_STAKE - STAKE_SLASH, "slashed too");
    }

    function test_StakeOnItsWayOutIsSlashed() external {
        VM.prank(verifier);
        settlement.requestUnstake(verifier, MIN_STAKE);
        _must(helper, _conflict(verifier, verifier));
        VM.warp(START + EXIT_DELAY);
        VM.prank(verifier);
        assertEq(settlement.unstake(verifier), MIN_STAKE - STAKE_SLASH, "what was left");
    }

    function test_WhoeverReportsItselfStillLoses() external {
        _must(verifier, _conflict(verifier, verifier));
        assertEq(
            _stakeOf(verifier) + _credit(verifier),
            MIN_STAKE - STAKE_SLASH + STAKE_SLASH / 8,
            "an eighth back"
        );
    }

    function test_RevertWhen_TwoVerifiersDisagree() external {
        address other = _account("other verifier");
        _stakeVerifier(other);
        _refuse(helper, _conflict(verifier, other), _wrongSigner(verifier, other));
    }

    function test_RevertWhen_TheReceiptsAreTwo() external {
        no = _attestation(receipts[1], 2);
        _refuse(
            helper,
            _conflict(verifier, verifier),
            _wrongHash("receipt", yes.receiptHash, no.receiptHash)
        );
    }

    function test_RevertWhen_TheVerdictsAreNoConflict() external {
        uint8[2][5] memory pairs =
            [[uint8(1), 1], [uint8(2), 2], [uint8(2), 1], [uint8(1), 3], [uint8(3), 2]];
        for (uint256 i = 0; i < pairs.length; ++i) {
            (yes.verdict, no.verdict) = (pairs[i][0], pairs[i][1]);
            bool isFirst = yes.verdict != 1;
            _refuse(
                helper,
                _conflict(verifier, verifier),
                abi.encodeWithSelector(
                    ErrorsLib.WrongVerdict.selector,
                    isFirst ? 1 : 2,
                    isFirst ? yes.verdict : no.verdict
                )
            );
        }
    }

    function test_RevertWhen_NobodySigned() external {
        bytes memory reason = _wrongSigner(address(0), address(0));
        _refuse(helper, abi.encodeCall(disputes.proveConflict, (yes, "", no, "")), reason);
        bytes memory signature = _sign(verifier, Hashing.hash(yes));
        _refuse(
            helper,
            abi.encodeCall(disputes.proveConflict, (yes, signature, no, "")),
            _wrongSigner(verifier, address(0))
        );
    }

    function _conflict(address first, address second) internal view returns (bytes memory) {
        return abi.encodeCall(
            disputes.proveConflict,
            (yes, _sign(first, Hashing.hash(yes)), no, _sign(second, Hashing.hash(no)))
        );
    }
}
