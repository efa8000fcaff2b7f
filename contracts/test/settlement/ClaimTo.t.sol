// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {Settlement} from "../../src/Settlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {Scene} from "../Scene.sol";
import {VM} from "../Vm.sol";
import {OddToken} from "../mocks/OddToken.sol";

/// @notice A payee whose payout address the token refuses is paid elsewhere, by that address's word.
contract ClaimToTest is Scene {
    uint64 internal constant AMOUNT = 10e6;

    address internal operator;
    address internal cold;

    function setUp() public override {
        super.setUp();
        (operator, cold) = (_account("operator"), _account("cold"));
        _deposit(ALICE, 100e6);
        _bond(COORDINATOR, MIN_BOND);
        _stakeProvider(operator, cold, MIN_STAKE);
        _pay(operator, AMOUNT);
        VM.warp(START + 2 * EPOCH);
    }

    function test_ThePayoutAddressIsPaidElsewhere() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, START + 2 * EPOCH));
        VM.expectEmit(true, true, true, true, address(settlement));
        emit EventsLib.Claimed(operator, BOB, AMOUNT);
        VM.prank(STRANGER);
        settlement.claimTo(operator, BOB, START + 2 * EPOCH, signature);
        assertEq(token.balanceOf(BOB), AMOUNT, "paid in the deadline's last second");
        assertEq(settlement.claimNonceOf(operator), 1, "nonce");
        assertEq(settlement.payeeOf(operator).available, 0, "credit");
    }

    function test_APayeeWithoutPayoutSignsForItself() external {
        address payee = _account("payee");
        _pay(payee, 7);
        VM.warp(START + 4 * EPOCH);
        bytes32 claim = Hashing.claim(payee, BOB, 0, type(uint256).max);
        settlement.claimTo(payee, BOB, type(uint256).max, _sign(payee, claim));
        assertEq(token.balanceOf(BOB), 7, "paid");
    }

    function test_TheTypedClaimIsWhatWalletsSign() external pure {
        bytes32 typeHash =
            keccak256("Claim(address payee,address to,uint256 nonce,uint256 deadline)");
        assertEq(
            Hashing.claim(ALICE, BOB, 3, 9),
            keccak256(abi.encode(typeHash, ALICE, BOB, uint256(3), uint256(9))),
            "struct hash"
        );
    }

    function test_RevertWhen_ItIsSignedByAnother() external {
        // The hot operator key is not enough: it may be stolen.
        address[3] memory signers = [operator, _account("thief"), _account("requester")];
        for (uint256 i = 0; i < signers.length; ++i) {
            bytes memory signature = _sign(signers[i], _claim(BOB, 0, type(uint256).max));
            _expectWrongSigner(signers[i]);
            _claimTo(BOB, signature);
        }
    }

    function test_RevertWhen_TheFormerPayoutSigned() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        address other = _account("other");
        VM.prank(cold);
        settlement.changePayout(operator, other);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, other, cold));
        _claimTo(BOB, signature);
    }

    function test_RevertWhen_AWordOfTheClaimIsChanged() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        _expectAnotherSigner(STRANGER, type(uint256).max, operator, signature);
        _expectAnotherSigner(BOB, type(uint256).max - 1, operator, signature);
        address twin = _account("twin");
        _stakeProvider(twin, cold, MIN_STAKE);
        _expectAnotherSigner(BOB, type(uint256).max, twin, signature);
    }

    function test_RevertWhen_ItIsReplayed() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        _claimTo(BOB, signature);
        _pay(operator, AMOUNT);
        VM.warp(START + 4 * EPOCH);
        _expectAnotherSigner(BOB, type(uint256).max, operator, signature);
        _claimTo(BOB, _sign(cold, _claim(BOB, 1, type(uint256).max)));
        assertEq(token.balanceOf(BOB), 2 * AMOUNT, "with the next nonce only");
    }

    function test_AFailedTryUsesNoNonce() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        settlement.claim(operator);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NothingToClaim.selector, operator));
        _claimTo(BOB, signature);
        assertEq(settlement.claimNonceOf(operator), 0, "nonce");
    }

    function test_RevertWhen_ItHasExpired() external {
        uint256 deadline = START + 2 * EPOCH - 1;
        bytes memory signature = _sign(cold, _claim(BOB, 0, deadline));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.Expired.selector, deadline, deadline + 1));
        settlement.claimTo(operator, BOB, deadline, signature);
    }

    function test_RevertWhen_ItIsForAnotherChain() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        VM.chainId(99);
        _expectAnotherSigner(BOB, type(uint256).max, operator, signature);
    }

    function test_RevertWhen_ItIsForAnotherContract() external {
        Settlement here = settlement;
        _deploy(_config(address(token)));
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        settlement = here;
        _expectAnotherSigner(BOB, type(uint256).max, operator, signature);
    }

    function test_RevertWhen_TheSignatureHasAnotherForm() external {
        bytes memory signature = _sign(cold, _claim(BOB, 0, type(uint256).max));
        (bytes32 r, bytes32 s, uint8 v) = _split(signature);
        bytes32 high = bytes32(ORDER_OF_CURVE - uint256(s));
        VM.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureS.selector, high));
        _claimTo(BOB, abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)));
        bytes32 compact = v == 28 ? s | bytes32(uint256(1) << 255) : s;
        VM.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 64));
        _claimTo(BOB, abi.encodePacked(r, compact));
        VM.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 66));
        _claimTo(BOB, bytes.concat(signature, hex"00"));
        VM.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignature.selector));
        _claimTo(BOB, abi.encodePacked(r, s, v - 27));
    }

    function test_RevertWhen_TheTargetIsUnusable() external {
        address[2] memory unusable = [address(0), address(settlement)];
        for (uint256 i = 0; i < unusable.length; ++i) {
            bytes memory signature = _sign(cold, _claim(unusable[i], 0, type(uint256).max));
            VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, unusable[i]));
            _claimTo(unusable[i], signature);
        }
    }

    function test_ABlacklistedPayoutIsStillPaid() external {
        OddToken odd = new OddToken(6);
        _deploy(_config(address(odd)));
        odd.mint(ALICE, AMOUNT);
        odd.mint(COORDINATOR, MIN_BOND);
        address[2] memory payers = [ALICE, COORDINATOR];
        for (uint256 i = 0; i < payers.length; ++i) {
            VM.prank(payers[i]);
            odd.approve(address(settlement), type(uint256).max);
        }
        VM.prank(ALICE);
        settlement.deposit(AMOUNT);
        VM.prank(COORDINATOR);
        settlement.bond(MIN_BOND);
        VM.prank(operator);
        settlement.changePayout(operator, cold);
        _pay(operator, AMOUNT);
        VM.warp(START + 4 * EPOCH);
        odd.setBlocked(cold);
        VM.expectRevert(abi.encodeWithSelector(OddToken.Blocked.selector, cold));
        settlement.claim(operator);
        _claimTo(BOB, _sign(cold, _claim(BOB, 0, type(uint256).max)));
        assertEq(odd.balanceOf(BOB), AMOUNT, "paid");
    }

    /* INTERNAL */

    function _claim(address to, uint256 nonce, uint256 deadline) internal view returns (bytes32) {
        return Hashing.claim(operator, to, nonce, deadline);
    }

    function _claimTo(address to, bytes memory signature) internal {
        settlement.claimTo(operator, to, type(uint256).max, signature);
    }

    function _expectWrongSigner(address actual) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, cold, actual));
    }

    /// @dev Other words under a signature give an address that nobody can name beforehand.
    function _expectAnotherSigner(
        address to,
        uint256 deadline,
        address payee,
        bytes memory signature
    ) internal {
        (bool ok, bytes memory answer) = address(settlement)
            .call(abi.encodeCall(settlement.claimTo, (payee, to, deadline, signature)));
        assertTrue(!ok, "refused");
        assertTrue(bytes4(answer) == ErrorsLib.WrongSigner.selector, "by the signature");
    }
}
