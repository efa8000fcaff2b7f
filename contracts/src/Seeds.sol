// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISeeds} from "./interfaces/ISeeds.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Header} from "./libraries/Header.sol";

/// @title Seeds
/// @notice See ISeeds. Holds no money and calls nothing but the EIP-2935 history contract.
abstract contract Seeds is ISeeds {
    /* CONSTANTS */

    /// @notice EIP-2935: 32 bytes of block number in, 32 bytes of block hash out.
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    /// @notice How many blocks EIP-2935 looks back.
    uint256 internal constant HISTORY_WINDOW = 8191;
    /// @notice How many blocks the BLOCKHASH opcode looks back.
    uint256 internal constant BLOCKHASH_WINDOW = 256;
    /// @inheritdoc ISeeds
    bytes32 public constant SEED_TAG = Hashing.SEED_TAG;

    /* IMMUTABLES */

    /// @inheritdoc ISeeds
    uint64 public immutable SEED_DELAY;
    /// @inheritdoc ISeeds
    uint64 public immutable NONCE_TIMEOUT;

    /* STORAGE */

    mapping(address committer => uint64) private _commitCount;
    mapping(address committer => mapping(uint64 seq => Commitment)) private _commitments;

    /* CONSTRUCTOR */

    constructor(uint64 seedDelay, uint64 nonceTimeout) {
        // With no delay the committer would know the seed's block; a delay or timeout beyond the
        // window would leave no block in which the seed can be fixed.
        if (seedDelay == 0) revert ErrorsLib.BadConfig("seedDelay", 1, seedDelay);
        if (seedDelay >= HISTORY_WINDOW) {
            revert ErrorsLib.BadConfig("seedDelay", HISTORY_WINDOW - 1, seedDelay);
        }
        if (nonceTimeout >= HISTORY_WINDOW) {
            revert ErrorsLib.BadConfig("nonceTimeout", HISTORY_WINDOW - 1, nonceTimeout);
        }
        SEED_DELAY = seedDelay;
        NONCE_TIMEOUT = nonceTimeout;
    }

    /* ACTIONS */

    /// @inheritdoc ISeeds
    function commit(bytes32 root, bytes32 nonceHash, bytes32 dataHash)
        external
        returns (uint64 seq)
    {
        seq = _commitCount[msg.sender]++;
        _commitments[msg.sender][seq] = Commitment({
            root: root, nonceHash: nonceHash, seed: 0, blockNumber: uint64(block.number)
        });
        emit EventsLib.Committed(msg.sender, seq, root, nonceHash, dataHash, uint64(block.number));
    }

    /// @inheritdoc ISeeds
    function fixSeed(address committer, uint64 seq, bytes calldata headerRLP, bytes calldata nonces)
        external
        returns (bytes32 seed)
    {
        Commitment storage commitment = _commitments[committer][seq];
        if (commitment.blockNumber == 0) revert ErrorsLib.UnknownCommitment(committer, seq);
        if (commitment.seed != 0) revert ErrorsLib.SeedAlreadyFixed(commitment.seed);

        uint64 seedBlock = commitment.blockNumber + SEED_DELAY;
        _checkHeader(seedBlock, keccak256(headerRLP));
        bytes32 noncesHash = keccak256(nonces);
        if (noncesHash != commitment.nonceHash) {
            _checkNoncesWaived(seedBlock, commitment.nonceHash, noncesHash, nonces.length);
        }

        bytes32 mixHash = Header.mixHash(headerRLP);
        seed = Hashing.seed(address(this), committer, seq, commitment.root, mixHash, noncesHash);
        commitment.seed = seed;
        emit EventsLib.SeedFixed(committer, seq, seedBlock, mixHash, seed);
    }

    /* VIEWS */

    /// @inheritdoc ISeeds
    function commitmentOf(address committer, uint64 seq) external view returns (Commitment memory) {
        return _commitments[committer][seq];
    }

    /// @inheritdoc ISeeds
    function commitCountOf(address committer) external view returns (uint64) {
        return _commitCount[committer];
    }

    /* INTERNAL */

    /// @dev Reverts unless `headerHash` is the hash of block `number`, which must be past and in
    /// reach.
    function _checkHeader(uint256 number, bytes32 headerHash) private view {
        // A block's hash exists only from the next block on.
        if (block.number <= number) {
            revert ErrorsLib.SeedBlockNotReached(number + 1, block.number);
        }
        if (block.number > number + HISTORY_WINDOW) {
            revert ErrorsLib.SeedBlockTooOld(number + HISTORY_WINDOW, block.number);
        }
        bytes32 expected =
            block.number <= number + BLOCKHASH_WINDOW ? blockhash(number) : _historyHash(number);
        // A chain without EIP-2935 answers nothing; zero must match no header.
        if (expected == 0 || expected != headerHash) {
            revert ErrorsLib.WrongHeader(expected, headerHash);
        }
    }

    /// @dev Block hash by EIP-2935, or zero where the history contract has none.
    function _historyHash(uint256 number) private view returns (bytes32) {
        (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(number));
        return ok && answer.length == 32 ? bytes32(answer) : bytes32(0);
    }

    /// @dev Nonces that do not open the commitment pass only if there are none and it is late: so
    /// whoever holds them back has no veto, only a choice between two seeds neither of which was
    /// known at commitment.
    function _checkNoncesWaived(uint256 seedBlock, bytes32 expected, bytes32 actual, uint256 length)
        private
        view
    {
        if (length != 0) revert ErrorsLib.WrongNonces(expected, actual);
        uint256 earliest = seedBlock + NONCE_TIMEOUT + 1;
        if (block.number < earliest) {
            revert ErrorsLib.NoncesStillAwaited(earliest, block.number);
        }
    }
}
