// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {IERC20, SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {Seeds} from "./Seeds.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {Accounts} from "./libraries/Accounts.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";
import {Lanes} from "./libraries/Lanes.sol";

/// @title Settlement
/// @notice See ISettlement, also for what this version does not yet enforce.
/// @dev Money comes in first and goes out last: what is credited has been received, and what is paid
/// has been deducted. Functions that call the token share one reentrancy guard, because a token with
/// hooks could otherwise nest two transfers and have one counted twice by the balance check.
contract Settlement is ISettlement, Seeds, EIP712, ReentrancyGuardTransient {
    using Accounts for Payee;
    using SafeERC20 for IERC20;

    /* CONSTANTS */

    /// @inheritdoc ISettlement
    uint256 public constant MAX_LANES = 256;
    /// @dev With more decimals 64 bits would be too few for real amounts.
    uint8 internal constant MAX_DECIMALS = 6;

    /* IMMUTABLES */

    /// @inheritdoc ISettlement
    address public immutable TOKEN;
    /// @inheritdoc ISettlement
    uint64 public immutable EPOCH;
    /// @inheritdoc ISettlement
    uint64 public immutable OPEN;
    /// @inheritdoc ISettlement
    uint64 public immutable RESPONSE;
    /// @inheritdoc ISettlement
    uint64 public immutable EXIT_DELAY;
    /// @inheritdoc ISettlement
    uint64 public immutable ORDER_LIFETIME;
    /// @inheritdoc ISettlement
    uint64 public immutable MIN_BOND;
    /// @inheritdoc ISettlement
    uint64 public immutable MIN_STAKE;

    /* STORAGE */

    mapping(address account => Requester) private _requesters;
    mapping(address account => Coordinator) private _coordinators;
    mapping(address account => Operator) private _operators;
    mapping(address account => Payee) private _payees;
    mapping(address coordinator => mapping(uint64 seq => bytes32)) private _batches;

    /* CONSTRUCTOR */

    constructor(Config memory config)
        Seeds(config.seedDelay, config.nonceTimeout)
        EIP712("gpumarket", "1")
    {
        _checkConfig(config);
        TOKEN = config.token;
        EPOCH = config.epoch;
        OPEN = config.open;
        RESPONSE = config.response;
        EXIT_DELAY = config.exitDelay;
        ORDER_LIFETIME = config.exitDelay - config.open - config.response;
        MIN_BOND = config.minBond;
        MIN_STAKE = config.minStake;
    }

    /* REQUESTER */

    /// @inheritdoc ISettlement
    function deposit(uint256 amount) external nonReentrant {
        _deposit(amount);
    }

    /// @inheritdoc ISettlement
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        // Anybody can take the permit from the mempool and use it first; the allowance is then
        // there already, and the deposit must not fail for it.
        try IERC20Permit(TOKEN).permit(msg.sender, address(this), amount, deadline, v, r, s) {}
            catch {}
        _deposit(amount);
    }

    /// @inheritdoc ISettlement
    function requestWithdraw(uint256 amount) external {
        Requester storage requester = _requesters[msg.sender];
        _checkEnough(msg.sender, amount, requester.balance);
        uint64 unlockAt = _unlockTime();
        requester.withdrawing = uint64(amount);
        requester.unlockAt = unlockAt;
        emit EventsLib.WithdrawRequested(msg.sender, amount, unlockAt);
    }

    /// @inheritdoc ISettlement
    function withdraw() external nonReentrant returns (uint256 amount) {
        Requester storage requester = _requesters[msg.sender];
        uint64 balance = requester.balance;
        amount = requester.withdrawing;
        // Batches may have spent what was asked back: orders signed before outrank the exit.
        if (amount > balance) amount = balance;
        _checkUnlocked(msg.sender, amount, requester.unlockAt);
        requester.balance = balance - uint64(amount);
        requester.withdrawing = 0;
        requester.unlockAt = 0;
        emit EventsLib.Withdrawn(msg.sender, amount);
        _push(msg.sender, amount);
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
    function unbond() external nonReentrant returns (uint256 amount) {
        Coordinator storage coordinator = _coordinators[msg.sender];
        amount = coordinator.unbonding;
        _checkUnlocked(msg.sender, amount, coordinator.unlockAt);
        coordinator.bond -= uint64(amount);
        coordinator.unbonding = 0;
        coordinator.unlockAt = 0;
        emit EventsLib.Unbonded(msg.sender, amount);
        _push(msg.sender, amount);
    }

    /// @inheritdoc ISettlement
    function postBatch(
        bytes32 dataHash,
        address[] calldata requesters,
        address[] calldata payees,
        bytes calldata lanes
    ) external returns (uint64 seq) {
        seq = _nextBatch();
        (uint256[] memory debits, uint256[] memory credits) =
            _sumLanes(requesters.length, payees.length, lanes);
        for (uint256 i = 0; i < debits.length; ++i) {
            _debit(requesters[i], debits[i]);
        }
        uint32 epoch = currentEpoch();
        for (uint256 i = 0; i < credits.length; ++i) {
            _credit(payees[i], credits[i], epoch);
        }
        uint64 postedAt = uint64(block.timestamp);
        _batches[msg.sender][seq] =
            keccak256(abi.encode(postedAt, dataHash, requesters, payees, lanes));
        emit EventsLib.BatchPosted(msg.sender, seq, postedAt, dataHash, requesters, payees, lanes);
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
        _stake(Role.VERIFIER, amount, payout, peerIdHash);
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

    /// @inheritdoc ISettlement
    function claim(address payee) external nonReentrant returns (uint256 amount) {
        Payee memory account = payeeOf(payee);
        amount = account.available;
        if (amount == 0) revert ErrorsLib.NothingToClaim(payee);
        account.available = 0;
        _payees[payee] = account;
        address payout = payoutOf(payee);
        emit EventsLib.Claimed(payee, payout, amount);
        _push(payout, amount);
    }

    /* VIEWS */

    /// @inheritdoc ISettlement
    function requesterOf(address account) external view returns (Requester memory) {
        return _requesters[account];
    }

    /// @inheritdoc ISettlement
    function coordinatorOf(address account) external view returns (Coordinator memory) {
        return _coordinators[account];
    }

    /// @inheritdoc ISettlement
    function operatorOf(address account) external view returns (Operator memory) {
        return _operators[account];
    }

    /// @inheritdoc ISettlement
    function payeeOf(address account) public view returns (Payee memory payee) {
        payee = _payees[account];
        payee.roll(currentEpoch());
    }

    /// @inheritdoc ISettlement
    function payoutOf(address payee) public view returns (address payout) {
        payout = _operators[payee].payout;
        if (payout == address(0)) payout = payee;
    }

    /// @inheritdoc ISettlement
    function batchOf(address coordinator, uint64 seq) external view returns (bytes32) {
        return _batches[coordinator][seq];
    }

    /// @inheritdoc ISettlement
    function currentEpoch() public view returns (uint32) {
        return uint32(block.timestamp / EPOCH);
    }

    /// @inheritdoc ISettlement
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /* INTERNAL: BATCHES */

    /// @dev Checks the caller's bond and counts a batch. Bond that is being unbonded does not count:
    /// nobody may post with a bond that can be gone before the batch can be disputed.
    function _nextBatch() private returns (uint64) {
        Coordinator storage coordinator = _coordinators[msg.sender];
        uint64 counted = coordinator.bond - coordinator.unbonding;
        if (counted < MIN_BOND) revert ErrorsLib.BondTooSmall(MIN_BOND, counted);
        return coordinator.batches++;
    }

    /// @dev Adds up lanes by party. Each total is below MAX_LANES * 2^64, so none can overflow.
    function _sumLanes(uint256 requesterCount, uint256 payeeCount, bytes calldata lanes)
        private
        pure
        returns (uint256[] memory debits, uint256[] memory credits)
    {
        uint256 count = lanes.length / Lanes.SIZE;
        if (count == 0 || count > MAX_LANES || count * Lanes.SIZE != lanes.length) {
            revert ErrorsLib.BadLanesLength(Lanes.SIZE, MAX_LANES, lanes.length);
        }
        if (requesterCount > count) revert ErrorsLib.TooManyParties(count, requesterCount);
        if (payeeCount > count) revert ErrorsLib.TooManyParties(count, payeeCount);
        debits = new uint256[](requesterCount);
        credits = new uint256[](payeeCount);
        for (uint256 i = 0; i < count; ++i) {
            (uint256 requester, uint256 payee, uint256 leaves, uint256 amount) =
                Lanes.read(lanes, i);
            if (requester >= requesterCount) {
                revert ErrorsLib.BadLaneIndex(i, requesterCount, requester);
            }
            if (payee >= payeeCount) revert ErrorsLib.BadLaneIndex(i, payeeCount, payee);
            if (leaves == 0) revert ErrorsLib.EmptyLane(i);
            unchecked {
                debits[requester] += amount;
                credits[payee] += amount;
            }
        }
    }

    /// @dev Takes `amount` from a requester's escrow, also from what it has asked back.
    function _debit(address account, uint256 amount) private {
        uint64 balance = _requesters[account].balance;
        _checkEnough(account, amount, balance);
        _requesters[account].balance = balance - uint64(amount);
    }

    /// @dev Adds `amount`, already debited and so within 64 bits, to a payee's unmatured credit.
    function _credit(address account, uint256 amount, uint32 epoch) private {
        _checkAddress(account);
        Payee memory payee = _payees[account];
        payee.roll(epoch);
        payee.cur += uint64(amount);
        _payees[account] = payee;
    }

    /* INTERNAL: PARTIES */

    function _deposit(uint256 amount) private {
        _pull(amount);
        _requesters[msg.sender].balance += uint64(amount);
        emit EventsLib.Deposited(msg.sender, amount);
    }

    function _stake(Role role, uint256 amount, address payout, bytes32 peerIdHash) private {
        _pull(amount);
        Operator memory record = _operators[msg.sender];
        if (record.role == Role.NONE) {
            record.role = role;
        } else if (record.role != role) {
            revert ErrorsLib.WrongRole(uint8(record.role), uint8(role));
        }
        if (record.payout == address(0)) {
            _checkAddress(payout);
            record.payout = payout;
        } else if (record.payout != payout) {
            // A stolen operator key must not be able to send the money elsewhere.
            revert ErrorsLib.WrongPayout(record.payout, payout);
        }
        if (record.stake == 0) record.stakedAt = uint64(block.timestamp);
        record.stake += uint64(amount);
        record.peerIdHash = peerIdHash;
        uint64 counted = record.stake - record.unstaking;
        if (counted < MIN_STAKE) revert ErrorsLib.StakeTooSmall(MIN_STAKE, counted);
        _operators[msg.sender] = record;
        emit EventsLib.Staked(msg.sender, role, payout, peerIdHash, amount);
    }

    /* INTERNAL: CHECKS */

    function _checkConfig(Config memory config) private view {
        uint8 decimals = IERC20Metadata(config.token).decimals();
        if (decimals > MAX_DECIMALS) revert ErrorsLib.TooManyDecimals(MAX_DECIMALS, decimals);
        _checkAtLeast("open", 1, config.open);
        _checkAtLeast("response", 1, config.response);
        _checkAtLeast("minBond", 1, config.minBond);
        _checkAtLeast("minStake", 1, config.minStake);
        // A dispute must end while the credit it takes from is still unmatured. Credit waits for
        // one whole epoch at least.
        uint256 dispute = uint256(config.open) + config.response;
        _checkAtLeast("epoch", dispute + 1, config.epoch);
        // Bond and stake must outlast every dispute over what they back; and some time must be
        // left in which an order can be open.
        _checkAtLeast("exitDelay", config.epoch, config.exitDelay);
    }

    function _checkAtLeast(bytes32 name, uint256 minimum, uint256 actual) private pure {
        if (actual < minimum) revert ErrorsLib.BadConfig(name, minimum, actual);
    }

    function _checkAddress(address account) private view {
        if (account == address(0) || account == address(this)) {
            revert ErrorsLib.BadAddress(account);
        }
    }

    function _checkEnough(address account, uint256 needed, uint256 actual) private pure {
        if (needed > actual) revert ErrorsLib.InsufficientBalance(account, needed, actual);
    }

    function _checkUnlocked(address account, uint256 amount, uint256 unlockAt) private view {
        if (amount == 0) revert ErrorsLib.NothingRequested(account);
        if (block.timestamp < unlockAt) revert ErrorsLib.StillLocked(unlockAt, block.timestamp);
    }

    function _checkOperatorOrPayout(address operator, address payout) private view {
        if (msg.sender != operator && msg.sender != payout) {
            revert ErrorsLib.NotAuthorized(operator, msg.sender);
        }
    }

    function _unlockTime() private view returns (uint64) {
        return uint64(block.timestamp) + EXIT_DELAY;
    }

    /* INTERNAL: TOKEN */

    /// @dev Takes `amount` from the caller; after this it fits 64 bits and so does every sum of
    /// amounts inside. Any other amount than asked (a fee) is refused.
    function _pull(uint256 amount) private {
        if (amount == 0) revert ErrorsLib.ZeroAmount();
        IERC20 token = IERC20(TOKEN);
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 holdings = token.balanceOf(address(this));
        if (holdings > type(uint64).max) {
            revert ErrorsLib.HoldingsTooLarge(type(uint64).max, holdings);
        }
        uint256 received = holdings > before ? holdings - before : 0;
        if (received != amount) revert ErrorsLib.TransferMismatch(amount, received);
    }

    function _push(address to, uint256 amount) private {
        IERC20(TOKEN).safeTransfer(to, amount);
    }
}
