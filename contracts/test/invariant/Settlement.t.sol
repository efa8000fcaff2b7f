// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";
import {Auditor} from "./Auditor.sol";
import {Handler} from "./Handler.sol";

/// @notice What holds after every call, whatever the parties do.
contract SettlementInvariants is Fixture {
    Handler internal handler;
    Auditor internal auditor;

    function setUp() public override {
        super.setUp();
        handler = new Handler(settlement, token);
        auditor = handler.auditor();
    }

    function targetContracts() external view returns (address[] memory) {
        return _one(address(handler));
    }

    /// @notice The tokens inside are exactly what the parties can claim, and gifts to nobody.
    function invariant_HoldingsEqualAllClaims() public view {
        uint256 claims = handler.giftTotal();
        for (uint256 i = 0; i < handler.partyCount(); ++i) {
            claims += _claimsOf(handler.parties(i));
        }
        assertEq(token.balanceOf(address(settlement)), claims, "holdings and claims");
    }

    /// @notice Each party's every balance is what the logs say.
    function invariant_EveryLedgerIsWhatTheLogsSay() public view {
        uint256 present = VM.getBlockTimestamp();
        for (uint256 i = 0; i < handler.partyCount(); ++i) {
            address party = handler.parties(i);
            assertEq(settlement.requesterOf(party).balance, auditor.escrow(party), "escrow");
            assertEq(settlement.coordinatorOf(party).bond, auditor.bonds(party), "bond");
            assertEq(settlement.operatorOf(party).stake, auditor.stakes(party), "stake");
            ISettlement.Payee memory credit = settlement.payeeOf(party);
            (uint256 matured, uint256 waiting) = auditor.creditOf(party, present);
            assertEq(credit.available, matured, "matured credit");
            assertEq(uint256(credit.prev) + credit.cur, waiting, "credit that waits");
        }
    }

    /// @notice No party's wallet changed but by what the logs say it paid or was paid.
    function invariant_EveryWalletIsWhatTheLogsSay() public view {
        for (uint256 i = 0; i < handler.partyCount(); ++i) {
            address party = handler.parties(i);
            uint256 had = handler.minted(party) + auditor.paidOut(party);
            uint256 gave = auditor.paidIn(party) + handler.gifts(party);
            assertEq(token.balanceOf(party), had - gave, "wallet");
        }
    }

    /// @notice What is being taken back is never more than there is.
    function invariant_RequestsAreCovered() public view {
        for (uint256 i = 0; i < handler.partyCount(); ++i) {
            address party = handler.parties(i);
            ISettlement.Coordinator memory coordinator = settlement.coordinatorOf(party);
            ISettlement.Operator memory operator = settlement.operatorOf(party);
            assertTrue(coordinator.unbonding <= coordinator.bond, "bond");
            assertTrue(operator.unstaking <= operator.stake, "stake");
        }
    }

    /// @notice From any state reached, all parties get out with nothing but time.
    function afterInvariant() public {
        handler.exitAll();
        for (uint256 i = 0; i < handler.partyCount(); ++i) {
            assertEq(_claimsOf(handler.parties(i)), 0, "left behind");
        }
        assertEq(token.balanceOf(address(settlement)), handler.giftTotal(), "only gifts remain");
        invariant_EveryWalletIsWhatTheLogsSay();
    }

    /// @notice A fixed campaign in which every action must have worked, so none of the above is
    /// true for want of anything happening.
    function test_EveryActionWorksInACampaign() external {
        for (uint256 i = 0; i < 800; ++i) {
            _act(uint256(keccak256(abi.encode("campaign", i))));
            if (i % 50 == 0) {
                invariant_HoldingsEqualAllClaims();
                invariant_EveryLedgerIsWhatTheLogsSay();
                invariant_EveryWalletIsWhatTheLogsSay();
                invariant_RequestsAreCovered();
            }
        }
        string[16] memory actions = [
            "deposit",
            "requestWithdraw",
            "withdraw",
            "bond",
            "requestUnbond",
            "unbond",
            "postBatch",
            "stake",
            "requestUnstake",
            "unstake",
            "changePayout",
            "claim",
            "wait",
            "gift",
            "trespass",
            "trespass that was allowed"
        ];
        for (uint256 i = 0; i < actions.length; ++i) {
            assertTrue(handler.successes(actions[i]) > 0, actions[i]);
        }
        afterInvariant();
    }

    function _act(uint256 r) internal {
        (uint256 who, uint256 amount, uint256 kind) = (r >> 8, r >> 16, r % 15);
        if (kind == 0) handler.deposit(who, amount);
        else if (kind == 1) handler.requestWithdraw(who, amount);
        else if (kind == 2) handler.withdraw(who);
        else if (kind == 3) handler.bond(who, amount);
        else if (kind == 4) handler.requestUnbond(who, amount);
        else if (kind == 5) handler.unbond(who);
        else if (kind == 6) handler.postBatch(who, amount);
        else if (kind == 7) handler.stake(who, amount);
        else if (kind == 8) handler.requestUnstake(who);
        else if (kind == 9) handler.unstake(who);
        else if (kind == 10) handler.changePayout(who, amount);
        else if (kind == 11) handler.claim(who);
        else if (kind == 12) handler.wait(amount);
        else if (kind == 13) handler.gift(who, amount);
        else handler.trespass(who, amount, amount >> 8);
    }

    function _claimsOf(address party) internal view returns (uint256) {
        ISettlement.Payee memory credit = settlement.payeeOf(party);
        return uint256(settlement.requesterOf(party).balance) + settlement.coordinatorOf(party).bond
            + settlement.operatorOf(party).stake + credit.available + credit.prev + credit.cur;
    }
}
