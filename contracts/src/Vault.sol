// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {IERC20, SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {ISettlement} from "./interfaces/ISettlement.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title Vault
/// @notice The token's way in and out, and the requesters' escrow.
/// @dev Money comes in first and goes out last: what is credited has been received, and what is paid
/// has been deducted. Functions that call the token share one reentrancy guard, because a token with
/// hooks could otherwise nest two transfers and have one counted twice by the balance check.
abstract contract Vault is ISettlement, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /* CONSTANTS */

    /// @dev With more decimals 64 bits would be too few for real amounts.
    uint8 internal constant MAX_DECIMALS = 6;

    /* IMMUTABLES */

    /// @inheritdoc ISettlement
    address public immutable TOKEN;
    /// @inheritdoc ISettlement
    uint64 public immutable EXIT_DELAY;

    /* STORAGE */

    mapping(address account => Requester) internal _requesters;

    /* CONSTRUCTOR */

    constructor(address token, uint64 exitDelay) {
        uint8 decimals = IERC20Metadata(token).decimals();
        if (decimals > MAX_DECIMALS) revert ErrorsLib.TooManyDecimals(MAX_DECIMALS, decimals);
        TOKEN = token;
        EXIT_DELAY = exitDelay;
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
    function withdraw(address to) external nonReentrant returns (uint256 amount) {
        Requester storage requester = _requesters[msg.sender];
        uint64 balance = requester.balance;
        amount = requester.withdrawing;
        // Batches may have spent what was asked back: orders signed before outrank the exit.
        if (amount > balance) amount = balance;
        _checkUnlocked(msg.sender, amount, requester.unlockAt);
        requester.balance = balance - uint64(amount);
        requester.withdrawing = 0;
        requester.unlockAt = 0;
        emit EventsLib.Withdrawn(msg.sender, to, amount);
        _push(to, amount);
    }

    /// @inheritdoc ISettlement
    function requesterOf(address account) external view returns (Requester memory) {
        return _requesters[account];
    }

    /* INTERNAL: ESCROW */

    function _deposit(uint256 amount) private {
        _pull(amount);
        _requesters[msg.sender].balance += uint64(amount);
        emit EventsLib.Deposited(msg.sender, amount);
    }

    /// @dev Takes `amount` from a requester's escrow, also from what it has asked back.
    function _debit(address account, uint256 amount) internal {
        uint64 balance = _requesters[account].balance;
        _checkEnough(account, amount, balance);
        _requesters[account].balance = balance - uint64(amount);
    }

    /* INTERNAL: CHECKS */

    function _checkAddress(address account) internal view {
        if (account == address(0) || account == address(this)) {
            revert ErrorsLib.BadAddress(account);
        }
    }

    function _checkEnough(address account, uint256 needed, uint256 actual) internal pure {
        if (needed > actual) revert ErrorsLib.InsufficientBalance(account, needed, actual);
    }

    function _checkUnlocked(address account, uint256 amount, uint256 unlockAt) internal view {
        if (amount == 0) revert ErrorsLib.NothingRequested(account);
        if (block.timestamp < unlockAt) revert ErrorsLib.StillLocked(unlockAt, block.timestamp);
    }

    function _unlockTime() internal view returns (uint64) {
        return uint64(block.timestamp) + EXIT_DELAY;
    }

    /* INTERNAL: TOKEN */

    /// @dev Takes `amount` from the caller; after this it fits 64 bits and so does every sum of
    /// amounts inside. Any other amount than asked (a fee) is refused.
    function _pull(uint256 amount) internal {
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

    function _push(address to, uint256 amount) internal {
        _checkAddress(to);
        IERC20(TOKEN).safeTransfer(to, amount);
    }
}
