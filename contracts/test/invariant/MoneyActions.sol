// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Drafts} from "./Drafts.sol";

/// @notice Money in and out, and time.
abstract contract MoneyActions is Drafts {
    /* REQUESTERS */

    function deposit(uint256 seed) external {
        address account = _party(seed);
        uint256 amount = 1 + _mix(seed, "amount") % 1e9;
        _mint(account, amount);
        VM.prank(account);
        settlement.deposit(amount);
        _did("deposit");
    }

    function requestWithdraw(uint256 seed) external {
        address account = _party(seed);
        uint256 balance = settlement.requesterOf(account).balance;
        VM.prank(account);
        settlement.requestWithdraw(_mix(seed, "amount") % (balance + 1));
        _did("requestWithdraw");
    }

    function withdraw(uint256 seed) external {
        address account = _partyWith(seed, _withdrawing);
        ISettlement.Requester memory state = settlement.requesterOf(account);
        if (!_mayWait(seed, state.unlockAt, 8)) {
            return _refused(
                account,
                address(settlement),
                abi.encodeCall(settlement.withdraw, (account)),
                "withdraw too early"
            );
        }
        // It may have been slashed or spent while time passed.
        if (_withdrawing(account) == 0) return _did("time passed");
        VM.prank(account);
        settlement.withdraw(_party(seed >> 8));
        _did("withdraw");
    }

    /* COORDINATORS */

    function bond(uint256 seed) external {
        address account = _party(seed);
        uint256 amount = 1 + _mix(seed, "amount") % (2 * MIN_BOND);
        _mint(account, amount);
        VM.prank(account);
        settlement.bond(amount);
        _did("bond");
    }

    function requestUnbond(uint256 seed) external {
        address account = parties[2 + seed % 2];
        uint256 amount = settlement.coordinatorOf(account).bond;
        VM.prank(account);
        settlement.requestUnbond(_mix(seed, "amount") % (amount + 1));
        _did("requestUnbond");
    }

    function unbond(uint256 seed) external {
        address account = parties[2 + seed % 2];
        ISettlement.Coordinator memory state = settlement.coordinatorOf(account);
        _need(state.unbonding != 0);
        if (!_mayWait(seed, state.unlockAt, 8)) {
            return _refused(
                account,
                address(settlement),
                abi.encodeCall(settlement.unbond, (account)),
                "unbond too early"
            );
        }
        // It may have been slashed or spent while time passed.
        if (settlement.coordinatorOf(account).unbonding == 0) return _did("time passed");
        VM.prank(account);
        settlement.unbond(_party(seed >> 8));
        _did("unbond");
    }

    /* OPERATORS */

    function stake(uint256 seed) external {
        address account = parties[4 + _mix(seed, "operator") % (PARTIES - 4)];
        ISettlement.Operator memory state = settlement.operatorOf(account);
        uint256 counted = state.stake - state.unstaking;
        uint256 least = counted < MIN_STAKE ? MIN_STAKE - counted : 1;
        _stakeMore(account, least + _mix(seed, "amount") % MIN_STAKE, _party(seed >> 8));
        _did("stake");
    }

    function requestUnstake(uint256 seed) external {
        address account = parties[4 + _mix(seed, "operator") % (PARTIES - 4)];
        ISettlement.Operator memory state = settlement.operatorOf(account);
        _need(state.role != ISettlement.Role.NONE && !isHonest[account]);
        uint256 spare = state.stake > MIN_STAKE ? state.stake - MIN_STAKE : 0;
        bool isAll = seed % 2 == 0 || state.stake < MIN_STAKE;
        uint256 amount = isAll ? state.stake : _mix(seed, "amount") % (spare + 1);
        VM.prank(seed % 3 == 0 ? account : state.payout);
        settlement.requestUnstake(account, amount);
        _did("requestUnstake");
    }

    function unstake(uint256 seed) external {
        address account = _partyWith(seed, _unstaking);
        ISettlement.Operator memory state = settlement.operatorOf(account);
        if (!_mayWait(seed, state.unlockAt, 8)) {
            return _refused(
                account,
                address(settlement),
                abi.encodeCall(settlement.unstake, (account)),
                "unstake too early"
            );
        }
        // It may have been slashed or spent while time passed.
        if (_unstaking(account) == 0) return _did("time passed");
        VM.prank(state.payout);
        settlement.unstake(account);
        _did("unstake");
    }

    function changePayout(uint256 seed) external {
        address account = _party(seed);
        VM.prank(settlement.payoutOf(account));
        settlement.changePayout(account, _party(seed >> 8));
        _did("changePayout");
    }

    /* PAYEES */

    function claim(uint256 seed) external {
        address account = _partyWith(seed, _available);
        settlement.claim(account);
        _did("claim");
    }

    function claimTo(uint256 seed) external {
        address account = _partyWith(seed, _available);
        address to = _party(seed >> 8);
        uint256 deadline = VM.getBlockTimestamp();
        uint256 nonce = settlement.claimNonceOf(account);
        bytes32 wish = Hashing.claim(account, to, nonce, deadline);
        bytes memory signature = _sign(settlement.payoutOf(account), wish);
        settlement.claimTo(account, to, deadline, signature);
        _did("claimTo");
        bytes memory again = abi.encodeCall(settlement.claimTo, (account, to, deadline, signature));
        _refused(to, address(settlement), again, "claimTo twice");
    }

    /* WORLD */

    /// @notice From a second to three weeks.
    function wait(uint256 seed) external {
        uint256 kind = seed % 8;
        uint256 most = kind < 4 ? 1 hours : kind < 7 ? 12 hours : 21 days;
        _warpTo(VM.getBlockTimestamp() + 1 + _mix(seed, "time") % most);
        _did("wait");
    }

    function gift(uint256 seed) external {
        address account = _party(seed);
        uint256 amount = _mix(seed, "amount") % 1e6;
        _mint(account, amount);
        VM.prank(account);
        token.transfer(address(settlement), amount);
        gifts[account] += amount;
        giftTotal += amount;
        _did("gift");
    }

    /// @notice Calls that nobody among the parties may make.
    function trespass(uint256 seed) external {
        address other = _party(seed >> 8);
        uint64 amount = uint64(1 + _mix(seed, "amount") % 1e6);
        ISettlement.Pocket pocket = ISettlement.Pocket(seed % 5);
        bytes[6] memory calls = [
            abi.encodeCall(settlement.take, (pocket, other, amount, 0)),
            abi.encodeCall(settlement.give, (pocket, other, amount, 0)),
            abi.encodeCall(settlement.claim, (address(settlement))),
            abi.encodeCall(settlement.requestWithdraw, (uint256(type(uint64).max))),
            abi.encodeCall(settlement.requestUnbond, (uint256(type(uint64).max))),
            abi.encodeCall(settlement.changePayout, (address(0xDEAD), other))
        ];
        bytes memory data = calls[_mix(seed, "call") % 6];
        _refused(_party(seed), address(settlement), data, "trespass");
    }

    /* INTERNAL */

    function _withdrawing(address account) private view returns (uint256) {
        ISettlement.Requester memory state = settlement.requesterOf(account);
        return state.balance < state.withdrawing ? state.balance : state.withdrawing;
    }

    function _unstaking(address account) private view returns (uint256) {
        return settlement.operatorOf(account).unstaking;
    }

    function _available(address account) private view returns (uint256) {
        return settlement.payeeOf(account).available;
    }

    /// @dev Whether it is time; once in `odds` it is made time.
    function _mayWait(uint256 seed, uint256 time, uint256 odds) internal returns (bool) {
        if (VM.getBlockTimestamp() >= time) return true;
        if (_mix(seed, "patience") % odds != 0) return false;
        _warpTo(time);
        return true;
    }
}
