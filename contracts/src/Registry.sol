// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vault} from "./Vault.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title Registry
/// @notice Who puts money at risk: coordinators their bond, providers and verifiers their stake.
abstract contract Registry is Vault {
    /* IMMUTABLES */

    /// @inheritdoc ISettlement
    uint64 public immutable MIN_BOND;
    /// @inheritdoc ISettlement
    uint64 public immutable MIN_STAKE;

    /* STORAGE */

    mapping(address account => Coordinator) internal _coordinators;
    mapping(address account => Operator) internal _operators;
    /// @dev Every verifier there ever was, in the order of its first stake; juries are drawn from it.
    Listing[] private _verifiers;

    /* CONSTRUCTOR */

    constructor(uint64 minBond, uint64 minStake) {
        MIN_BOND = minBond;
        MIN_STAKE = minStake;
    }

    /* COORDINATOR */

    /// @inheritdoc ISettlement
    function bond(uint256 amount) external nonReentrant {
        _pull(amount);
        _coordinators[msg.sender].bond += uint64(amount);
        emit EventsLib.Bonded(msg.sender, amount);
    }

    /// @inheritdoc ISettlement
    function requestUnbond(uint256 amount) external {
        Coordinator storage coordinator = _coordinators[msg.sender];
        _checkEnough(msg.sender, amount, coordinator.bond);
        uint64 unlockAt = _unlockTime();
        coordinator.unbonding = uint64(amount);
        coordinator.unlockAt = unlockAt;
        emit EventsLib.UnbondRequested(msg.sender, amount, unlockAt);
    }

    /// @inheritdoc ISettlement
    function unbond(address to) external nonReentrant returns (uint256 amount) {
        Coordinator storage coordinator = _coordinators[msg.sender];
        amount = coordinator.unbonding;
        _checkUnlocked(msg.sender, amount, coordinator.unlockAt);
        coordinator.bond -= uint64(amount);
        coordinator.unbonding = 0;
        coordinator.unlockAt = 0;
        emit EventsLib.Unbonded(msg.sender, to, amount);
        _push(to, amount);
    }

    /* PROVIDER AND VERIFIER */

    /// @inheritdoc ISettlement
    function stakeProvider(uint256 amount, address payout, bytes32 peerIdHash)
        external
        nonReentrant
    {
        _stake(Role.PROVIDER, amount, payout, peerIdHash);
    }

    /// @inheritdoc ISettlement
    function stakeVerifier(uint256 amount, address payout, bytes32 peerIdHash)
        external
        nonReentrant
    {
        bool isNew = _operators[msg.sender].role == Role.NONE;
        _stake(Role.VERIFIER, amount, payout, peerIdHash);
        if (isNew) {
            _verifiers.push(Listing({operator: msg.sender, listedAt: uint64(block.timestamp)}));
        }
    }

    /// @inheritdoc ISettlement
    function requestUnstake(address operator, uint256 amount) external {
        Operator storage record = _operators[operator];
        _checkOperatorOrPayout(operator, record.payout);
        _checkEnough(operator, amount, record.stake);
        uint256 rest = record.stake - amount;
        if (rest != 0 && rest < MIN_STAKE) revert ErrorsLib.StakeTooSmall(MIN_STAKE, rest);
        uint64 unlockAt = _unlockTime();
        record.unstaking = uint64(amount);
        record.unlockAt = unlockAt;
        emit EventsLib.UnstakeRequested(operator, amount, unlockAt);
    }

    /// @inheritdoc ISettlement
    function unstake(address operator) external nonReentrant returns (uint256 amount) {
        Operator storage record = _operators[operator];
        address payout = record.payout;
        _checkOperatorOrPayout(operator, payout);
        amount = record.unstaking;
        _checkUnlocked(operator, amount, record.unlockAt);
        record.stake -= uint64(amount);
        record.unstaking = 0;
        record.unlockAt = 0;
        emit EventsLib.Unstaked(operator, payout, amount);
        _push(payout, amount);
    }

    /// @inheritdoc ISettlement
    function changePayout(address payee, address payout) external {
        address previous = payoutOf(payee);
        if (msg.sender != previous) revert ErrorsLib.NotAuthorized(previous, msg.sender);
        _checkAddress(payout);
        _operators[payee].payout = payout;
        emit EventsLib.PayoutChanged(payee, previous, payout);
    }

    /* VIEWS */

    /// @inheritdoc ISettlement
    function coordinatorOf(address account) external view returns (Coordinator memory) {
        return _coordinators[account];
    }

    /// @inheritdoc ISettlement
    function operatorOf(address account) external view returns (Operator memory) {
        return _operators[account];
    }

    /// @inheritdoc ISettlement
    function payoutOf(address payee) public view returns (address payout) {
        payout = _operators[payee].payout;
        if (payout == address(0)) payout = payee;
    }

    /// @inheritdoc ISettlement
    function verifierCount() external view returns (uint256) {
        return _verifiers.length;
    }

    /// @inheritdoc ISettlement
    function verifierAt(uint256 index) external view returns (address operator, uint64 listedAt) {
        Listing memory listing = _verifiers[index];
        return (listing.operator, listing.listedAt);
    }

    /* INTERNAL: SLASHING */

    /// @dev Takes at most `amount` of a bond, also from what is being unbonded.
    function _takeBond(address account, uint256 amount) internal returns (uint64 taken) {
        Coordinator storage coordinator = _coordinators[account];
        uint64 rest = coordinator.bond;
        taken = amount < rest ? uint64(amount) : rest;
        rest -= taken;
        coordinator.bond = rest;
        if (coordinator.unbonding > rest) coordinator.unbonding = rest;
    }

    /// @dev Takes at most `amount` of a stake, also from what is being unstaked.
    function _takeStake(address account, uint256 amount) internal returns (uint64 taken) {
        Operator storage operator = _operators[account];
        uint64 rest = operator.stake;
        taken = amount < rest ? uint64(amount) : rest;
        rest -= taken;
        operator.stake = rest;
        if (operator.unstaking > rest) operator.unstaking = rest;
    }

    /* INTERNAL */

    function _stake(Role role, uint256 amount, address payout, bytes32 peerIdHash) private {
        _pull(amount);
        Operator memory record = _operators[msg.sender];
        if (record.role == Role.NONE) {
            record.role = role;
        } else if (record.role != role) {
            revert ErrorsLib.WrongRole(uint8(role), uint8(record.role));
        }
        if (record.payout == address(0)) {
            _checkAddress(payout);
            record.payout = payout;
        } else if (record.payout != payout) {
            // A stolen operator key must not be able to send the money elsewhere.
            revert ErrorsLib.WrongPayout(record.payout, payout);
        }
        // A verifier that left and comes back must not count as having been there all along.
        if (record.stake - record.unstaking < MIN_STAKE) record.stakedAt = uint64(block.timestamp);
        record.stake += uint64(amount);
        record.peerIdHash = peerIdHash;
        uint64 counted = record.stake - record.unstaking;
        if (counted < MIN_STAKE) revert ErrorsLib.StakeTooSmall(MIN_STAKE, counted);
        _operators[msg.sender] = record;
        emit EventsLib.Staked(msg.sender, role, payout, peerIdHash, amount);
    }

    function _checkOperatorOrPayout(address operator, address payout) private view {
        if (msg.sender != operator && msg.sender != payout) {
            revert ErrorsLib.NotAuthorized(operator, msg.sender);
        }
    }
}
