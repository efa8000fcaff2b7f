// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {DirectScene} from "./DirectScene.sol";

/// @notice An account of code: it does what its owner says, and denies every signature.
contract FickleAccount {
    function run(address target, bytes calldata data) external returns (bytes memory answer) {
        bool ok;
        (ok, answer) = target.call(data);
        require(ok, "call failed");
    }

    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return 0xffffffff;
    }
}

/// @notice Orders of requesters that are contracts.
contract PresignTest is DirectScene {
    FickleAccount internal account;

    function setUp() public override {
        _begin(6);
        account = new FickleAccount();
        requester = address(account);
        token.mint(address(account), FUNDS);
        account.run(
            address(token), abi.encodeCall(token.approve, (address(settlement), uint256(FUNDS)))
        );
        account.run(address(settlement), abi.encodeCall(settlement.deposit, (FUNDS)));
        // No key stands behind its address; what is signed in its name is by a stranger.
        keys[requester] = uint256(keccak256("not the account's"));
        order = _order(requester, coordinator);
        delete receipts;
        receipts.push(_receipt(order, 0, provider, UNIT_PRICE));
        batch = _post(coordinator, _work());
    }

    function test_OnlyTheRequesterItself() external {
        bytes memory refusal =
            abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, requester, coordinator);
        _refuseBy(
            coordinator, address(disputes), abi.encodeCall(disputes.presign, (order)), refusal
        );
        VM.expectEmit(true, true, true, true, address(disputes));
        emit EventsLib.Presigned(requester, Hashing.hash(order), order.expiry);
        _presign();
        assertTrue(disputes.isPresigned(requester, Hashing.hash(order)), "signed");
        assertTrue(!disputes.isPresigned(coordinator, Hashing.hash(order)), "for itself only");
    }

    function test_ItAnswersAChallenge() external {
        (uint256 id, IDisputes.Challenge memory challenge) = _challenge(0);
        bytes memory call_ = abi.encodeCall(
            disputes.respond,
            (id, challenge, _workLeaf(receipts[0]), _workEvidence(order, receipts[0]))
        );
        address stranger = VM.addr(keys[requester]);
        _refuseBy(
            coordinator,
            address(disputes),
            call_,
            abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, requester, stranger)
        );
        _presign();
        _must(coordinator, address(disputes), call_);
        assertTrue(_leaf(0).isAnswered, "answered");
    }

    function test_ItIsGoodForADirectSettlement() external {
        _presign();
        VM.warp(order.settleBy + 1);
        Claim memory claim = _attested(LEFT_OUT, verifiers[0], MATCH);
        claim.evidence.orderSignature = "";
        _settle(claim);
        assertEq(_escrow(requester), FUNDS - 2 * UNIT_PRICE, "paid");
    }

    /// @dev It has no key, so it cannot accept; a verifier's word is needed.
    function test_RevertWhen_AContractsAcceptanceIsClaimed() external {
        _presign();
        VM.warp(order.settleBy + 1);
        Claim memory claim = _accepted(LEFT_OUT);
        _refuseClaim(
            claim,
            abi.encodeWithSelector(
                ErrorsLib.WrongSigner.selector, requester, VM.addr(keys[requester])
            )
        );
    }

    function test_AnotherOrderIsNotSigned() external {
        _presign();
        ++order.nonce;
        assertTrue(!disputes.isPresigned(requester, Hashing.hash(order)), "another nonce");
        VM.warp(order.settleBy + 1);
        Claim memory claim = _attested(LEFT_OUT, verifiers[0], MATCH);
        claim.evidence.orderSignature = "";
        _refuseClaim(
            claim, abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, requester, address(0))
        );
    }

    function test_NothingTakesItBack() external {
        _presign();
        // Not other code at its address, and not signing again.
        VM.etch(address(account), hex"5f5ffd");
        VM.warp(order.settleBy + 1);
        _settle(_attested(LEFT_OUT, verifiers[0], MATCH));
        assertTrue(disputes.isPresigned(requester, Hashing.hash(order)), "for good");
    }

    function test_AnAccountWithAKeyMayPresignToo() external {
        address person = _account("person");
        order.requester = person;
        VM.prank(person);
        disputes.presign(order);
        assertTrue(disputes.isPresigned(person, Hashing.hash(order)), "signed");
    }

    function _presign() internal {
        account.run(address(disputes), abi.encodeCall(disputes.presign, (order)));
    }
}
