// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Settlement} from "../../src/Settlement.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {TestToken} from "../../src/mocks/TestToken.sol";
import {VM} from "../Vm.sol";
import {Auditor} from "./Auditor.sol";

/// @notice What the parties of a market do, in any order, with any amounts, at any time.
/// @dev An action that cannot be meant (nothing to withdraw) returns before it calls; all others
/// must succeed and are counted, so a campaign in which an action never worked is seen.
contract Handler {
    uint256 internal constant PARTIES = 6;

    Settlement public immutable settlement;
    TestToken public immutable token;
    Auditor public immutable auditor;
    address private immutable campaign;

    address[PARTIES] public parties;
    /// @notice Successes by action name.
    mapping(string action => uint256) public successes;
    /// @notice Tokens minted by account, and sent to the contract without being asked for.
    mapping(address account => uint256) public minted;
    mapping(address account => uint256) public gifts;
    uint256 public giftTotal;

    constructor(Settlement settlement_, TestToken token_) {
        settlement = settlement_;
        token = token_;
        campaign = msg.sender;
        auditor = new Auditor(settlement_.EPOCH());
        for (uint160 i = 0; i < PARTIES; ++i) {
            parties[i] = address(0xBEEF00 + i);
        }
    }

    /// @dev Runs the action as a party, and shows the auditor its logs.
    modifier audited(string memory action) {
        VM.recordLogs();
        _;
        auditor.read(VM.getRecordedLogs(), address(settlement));
        ++successes[action];
    }

    /* REQUESTERS */

    function deposit(uint256 who, uint256 amount) external audited("deposit") {
        amount = 1 + amount % 1e12;
        address account = _fund(who, amount);
        VM.prank(account);
        settlement.deposit(amount);
    }

    function requestWithdraw(uint256 who, uint256 amount) external audited("requestWithdraw") {
        address account = _party(who);
        amount = amount % (uint256(settlement.requesterOf(account).balance) + 1);
        VM.prank(account);
        settlement.requestWithdraw(amount);
    }

    function withdraw(uint256 who) external {
        address account = _party(who);
        ISettlement.Requester memory state = settlement.requesterOf(account);
        if (state.withdrawing == 0 || state.balance == 0) return;
        _waitUntil(state.unlockAt);
        _withdraw(account);
    }

    function _withdraw(address account) internal audited("withdraw") {
        VM.prank(account);
        settlement.withdraw();
    }

    /* COORDINATORS */

    function bond(uint256 who, uint256 amount) external audited("bond") {
        amount = settlement.MIN_BOND() + amount % 1e12;
        address account = _fund(who, amount);
        VM.prank(account);
        settlement.bond(amount);
    }

    function requestUnbond(uint256 who, uint256 amount) external audited("requestUnbond") {
        address account = _party(who);
        amount = amount % (uint256(settlement.coordinatorOf(account).bond) + 1);
        VM.prank(account);
        settlement.requestUnbond(amount);
    }

    function unbond(uint256 who) external {
        address account = _party(who);
        ISettlement.Coordinator memory state = settlement.coordinatorOf(account);
        if (state.unbonding == 0) return;
        _waitUntil(state.unlockAt);
        _unbond(account);
    }

    function _unbond(address account) internal audited("unbond") {
        VM.prank(account);
        settlement.unbond();
    }

    /// @notice Several lanes between two requesters and two payees, also the same ones.
    function postBatch(uint256 who, uint256 salt) external {
        address coordinator = _party(who);
        ISettlement.Coordinator memory state = settlement.coordinatorOf(coordinator);
        if (state.bond - state.unbonding < settlement.MIN_BOND()) return;
        address[] memory requesters = new address[](2);
        address[] memory payees = new address[](2);
        (requesters[0], requesters[1]) = (_party(salt), _party(salt >> 8));
        (payees[0], payees[1]) = (_party(salt >> 16), _party(salt >> 24));
        bytes memory lanes;
        for (uint16 i = 0; i < 2 + (salt >> 32) % 4; ++i) {
            // At most an eighth each, so that even six lanes of one requester are covered.
            uint256 most = settlement.requesterOf(requesters[i % 2]).balance / 8;
            uint64 amount = uint64(uint256(keccak256(abi.encode(salt, i))) % (most + 1));
            lanes = bytes.concat(
                lanes,
                abi.encodePacked(i % 2, uint16((salt >> (40 + i)) % 2), uint32(i + 1), amount, salt)
            );
        }
        _postBatch(coordinator, requesters, payees, lanes);
    }

    function _postBatch(
        address coordinator,
        address[] memory requesters,
        address[] memory payees,
        bytes memory lanes
    ) internal audited("postBatch") {
        VM.prank(coordinator);
        settlement.postBatch(keccak256(lanes), requesters, payees, lanes);
    }

    /* OPERATORS */

    function stake(uint256 who, uint256 amount) external audited("stake") {
        uint256 counted = settlement.MIN_STAKE() + amount % 1e12;
        address account = _fund(who, counted);
        address payout = settlement.operatorOf(account).payout;
        // Cold addresses are parties too, so that one's stake meets another's escrow.
        if (payout == address(0)) payout = _party(amount);
        bool verifies = settlement.operatorOf(account).role == ISettlement.Role.VERIFIER;
        VM.prank(account);
        if (verifies) settlement.stakeVerifier(counted, payout, keccak256("peer"));
        else settlement.stakeProvider(counted, payout, keccak256("peer"));
    }

    function requestUnstake(uint256 who) external audited("requestUnstake") {
        address account = _party(who);
        uint256 amount = settlement.operatorOf(account).stake;
        VM.prank(account);
        settlement.requestUnstake(account, amount);
    }

    function unstake(uint256 who) external {
        address account = _party(who);
        ISettlement.Operator memory state = settlement.operatorOf(account);
        if (state.unstaking == 0) return;
        _waitUntil(state.unlockAt);
        _unstake(account, state.payout);
    }

    function _unstake(address account, address payout) internal audited("unstake") {
        VM.prank(payout);
        settlement.unstake(account);
    }

    function changePayout(uint256 who, uint256 to) external audited("changePayout") {
        address account = _party(who);
        address present = settlement.payoutOf(account);
        VM.prank(present);
        settlement.changePayout(account, _party(to));
    }

    function claim(uint256 who) external {
        address account = _party(who);
        if (settlement.payeeOf(account).available == 0) return;
        _claim(account);
    }

    function _claim(address account) internal audited("claim") {
        settlement.claim(account);
    }

    /* WORLD */

    function wait(uint256 time) external audited("wait") {
        VM.warp(VM.getBlockTimestamp() + time % (2 * settlement.EPOCH()));
    }

    function gift(uint256 who, uint256 amount) external audited("gift") {
        amount = amount % 1e6;
        address account = _fund(who, amount);
        VM.prank(account);
        token.transfer(address(settlement), amount);
        gifts[account] += amount;
        giftTotal += amount;
    }

    /// @notice Any party calls any money function with any small number; it may fail.
    function trespass(uint256 who, uint256 what, uint256 amount) external audited("trespass") {
        address other = _party(what >> 8);
        bytes[9] memory calls = [
            abi.encodeCall(settlement.withdraw, ()),
            abi.encodeCall(settlement.unbond, ()),
            abi.encodeCall(settlement.unstake, (other)),
            abi.encodeCall(settlement.claim, (other)),
            abi.encodeCall(settlement.requestWithdraw, (amount)),
            abi.encodeCall(settlement.requestUnbond, (amount)),
            abi.encodeCall(settlement.requestUnstake, (other, amount)),
            abi.encodeCall(settlement.changePayout, (other, _party(who))),
            abi.encodeCall(settlement.deposit, (amount))
        ];
        VM.prank(_party(who));
        (bool ok,) = address(settlement).call(calls[what % calls.length]);
        if (ok) ++successes["trespass that was allowed"];
    }

    /// @notice All leave, with nobody's help and nothing but time. For the end of a campaign only.
    function exitAll() external {
        if (msg.sender != campaign) return;
        for (uint256 i = 0; i < PARTIES; ++i) {
            this.requestWithdraw(i, settlement.requesterOf(parties[i]).balance);
            this.requestUnbond(i, settlement.coordinatorOf(parties[i]).bond);
            this.requestUnstake(i);
        }
        VM.warp(VM.getBlockTimestamp() + settlement.EXIT_DELAY());
        VM.warp(VM.getBlockTimestamp() + 2 * settlement.EPOCH());
        for (uint256 i = 0; i < PARTIES; ++i) {
            this.withdraw(i);
            this.unbond(i);
            this.unstake(i);
            this.claim(i);
        }
    }

    function partyCount() external pure returns (uint256) {
        return PARTIES;
    }

    /* INTERNAL */

    function _party(uint256 who) internal view returns (address) {
        return parties[who % PARTIES];
    }

    function _fund(uint256 who, uint256 amount) internal returns (address account) {
        account = _party(who);
        token.mint(account, amount);
        minted[account] += amount;
        VM.prank(account);
        token.approve(address(settlement), type(uint256).max);
    }

    function _waitUntil(uint256 time) internal {
        if (time > VM.getBlockTimestamp()) VM.warp(time);
    }
}
