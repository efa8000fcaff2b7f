// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {Scene} from "../Scene.sol";
import {VM, Vm} from "../Vm.sol";
import {Auditor} from "./Auditor.sol";

/// @notice What a campaign knows of its market: the parties' keys, every batch with its documents, the
/// open disputes, and by plain rules of its own what must have become of each line.
abstract contract World is Scene, Auditor {
    /* TYPES */

    enum Kind {
        WORK,
        CHECK,
        FEE
    }

    /// @notice What is wrong with a line, on purpose.
    enum Flaw {
        NONE,
        UNSIGNED,
        NO_RECEIPT,
        PRICE,
        REQUESTER,
        COORDINATOR,
        PROVIDER,
        NO_LINE,
        LATE,
        FEE,
        DOUBLE,
        NO_ORDER,
        HIDDEN
    }

    /// @notice A line of a batch and what has been said about it. `holds`: disputes that hold it.
    /// `first...`: what a double pays again.
    struct Line {
        uint32 order;
        uint32 unit;
        Kind kind;
        Flaw flaw;
        uint8 holds;
        bool isChallenged;
        bool isAnswered;
        bool isAccused;
        bool isJudged;
        bool isVoid;
        bool isFalse;
        bool isDoubled;
        uint64 price;
        address provider;
        Spot first;
    }

    struct Spot {
        uint32 post;
        uint16 lane;
        uint32 index;
    }

    /// @notice `size` counts a line hidden beyond `count` too. `refunded` is read from logs.
    struct Lane {
        address requester;
        address payee;
        uint64 amount;
        uint32 count;
        uint32 size;
        uint32 open;
        bool isVoid;
        bool isTouched;
    }

    struct Post {
        address coordinator;
        uint64 seq;
        uint64 postedAt;
        uint16 lanes;
        bool isWithheld;
        bool isDirect;
        bool isWatched;
        bytes batch;
        bytes draft;
    }

    struct Ask {
        Spot spot;
        bool isLeaf;
        address challenger;
        uint64 deadline;
    }

    /// @notice `isAlone`: of a receipt, without its line; of the line's work as `unit` of its order.
    struct Trial {
        Spot spot;
        bool isAlone;
        uint32 unit;
        uint64 stakeHeld;
        uint64 bonds;
        bytes jury;
    }

    /* STORAGE */

    uint256 internal constant PARTIES = 13;
    /// @dev Places looked at before an action gives up.
    uint256 internal constant TRIES = 6;
    uint256 internal constant HONEST_REQUESTER = 0;
    uint256 internal constant HONEST_COORDINATOR = 2;
    uint256 internal constant HONEST_PROVIDER = 4;
    uint256 internal constant HONEST_VERIFIER = 7;

    address[] public parties;
    /// @notice Actions that worked, by name.
    mapping(string action => uint256) public successes;
    mapping(address account => uint256) public minted;
    mapping(address account => uint256) public gifts;
    uint256 public giftTotal;

    Hashing.Order[] internal orders;
    mapping(uint256 order => mapping(uint32 unit => bool)) internal isSettled;
    Post[] internal posts;
    mapping(uint256 post => mapping(uint16 lane => Lane)) internal lanes;
    mapping(uint256 post => mapping(uint16 lane => mapping(uint32 index => Line))) internal lines;
    Spot[] internal touched;
    mapping(bytes32 laneKey => uint256) internal refunded;
    mapping(uint256 id => Ask) internal asks;
    uint256[] internal openAsks;
    mapping(uint256 id => Trial) internal trials;
    uint256[] internal openTrials;
    /// @dev Receipts that are tried alone, or were judged so.
    mapping(bytes32 receiptHash => uint256 id) internal triedAlone;
    mapping(address operator => uint64) internal owed;
    mapping(address => bool) internal isHonest;

    /* SET-UP */

    /// @dev Parties 0-1 are requesters, 2-3 coordinators, 4-6 providers, 7-12 verifiers; but each does
    /// whatever it can. Verifiers have been listed long enough to sit in juries.
    function setUp() public virtual override {
        super.setUp();
        epochLength = EPOCH;
        VM.recordLogs();
        for (uint256 i = 0; i < PARTIES; ++i) {
            address party = _account(string.concat("party", VM.toString(i)));
            parties.push(party);
            VM.prank(party);
            token.approve(address(settlement), type(uint256).max);
        }
        for (uint256 i = 4; i < PARTIES; ++i) {
            if (i != 12) _stakeMore(parties[i], MIN_STAKE, parties[i - 4]);
        }
        VM.warp(START + 2 * EPOCH);
        _did("setUp");
    }

    /* HOOKS */

    function _beforeTime(uint256 to) internal virtual {}
    function _afterTime() internal virtual {}

    /* INTERNAL: CALLS */

    /// @dev Ends the action: shows the auditor the logs and counts.
    function _did(string memory action) internal {
        _readLogs();
        ++successes[action];
    }

    function _readLogs() internal {
        Vm.Log[] memory logs = VM.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(settlement)) _readLog(logs[i]);
            else if (logs[i].emitter != address(token)) _readWhy(logs[i]);
        }
    }

    /// @dev Nothing of the kind can be meant now: the call counts as not made.
    function _need(bool condition) internal {
        if (condition) return;
        // What is undone must leave no logs behind.
        VM.getRecordedLogs();
        VM.assume(false);
    }

    /// @dev The call must be refused.
    function _refused(address who, address target, bytes memory data, string memory action)
        internal
    {
        _readLogs();
        VM.prank(who);
        (bool ok,) = target.call(data);
        if (ok) revert(string.concat("not refused: ", action));
        VM.getRecordedLogs();
        ++successes[action];
    }

    /// @dev As assertEq, without writing the message when all is well.
    function _same(uint256 actual, uint256 expected, string memory what) internal pure {
        if (actual != expected) assertEq(actual, expected, what);
    }

    function _warpTo(uint256 time) internal {
        uint256 present = VM.getBlockTimestamp();
        if (time <= present) return;
        _beforeTime(time);
        VM.warp(time);
        VM.roll(VM.getBlockNumber() + (time - present) / 120);
        _afterTime();
    }

    /* INTERNAL: MONEY */

    function _mint(address account, uint256 amount) internal {
        token.mint(account, amount);
        minted[account] += amount;
    }

    function _ensureEscrow(address account, uint256 amount) internal {
        uint256 balance = settlement.requesterOf(account).balance;
        if (balance >= amount) return;
        _mint(account, amount - balance + 1e6);
        VM.prank(account);
        settlement.deposit(amount - balance + 1e6);
    }

    function _ensureBond(address account) internal {
        ISettlement.Coordinator memory state = settlement.coordinatorOf(account);
        uint256 counted = state.bond - state.unbonding;
        if (counted >= MIN_BOND) return;
        _mint(account, MIN_BOND - counted);
        VM.prank(account);
        settlement.bond(MIN_BOND - counted);
    }

    function _ensureStake(address account) internal {
        ISettlement.Operator memory state = settlement.operatorOf(account);
        uint64 counted = state.stake - state.unstaking;
        if (state.role != ISettlement.Role.NONE && counted >= MIN_STAKE) return;
        _stakeMore(account, MIN_STAKE - counted, account);
    }

    function _stakeMore(address account, uint256 amount, address payout) internal {
        _mint(account, amount);
        address known = settlement.operatorOf(account).payout;
        if (known != address(0)) payout = known;
        bool verifies = _indexOf(account) >= 7;
        VM.prank(account);
        if (verifies) settlement.stakeVerifier(amount, payout, PEER);
        else settlement.stakeProvider(amount, payout, PEER);
    }

    /* INTERNAL: CHOOSING */

    function _mix(uint256 seed, string memory what) internal pure returns (uint256) {
        return uint256(keccak256(abi.encodePacked(seed, what)));
    }

    function _party(uint256 seed) internal view returns (address) {
        return parties[_mix(seed, "party") % PARTIES];
    }

    /// @dev The first party, from a chosen one on, that has something; it may be none.
    function _partyWith(uint256 seed, function(address) view returns (uint256) amount)
        internal
        returns (address party)
    {
        uint256 start = _mix(seed, "party");
        for (uint256 i = 0; i < PARTIES; ++i) {
            party = parties[(start % PARTIES + i) % PARTIES];
            if (amount(party) != 0) return party;
        }
        _need(false);
    }

    function _other(address party) internal view returns (address) {
        return parties[(_indexOf(party) + 1) % PARTIES];
    }

    function _indexOf(address party) internal view returns (uint256 index) {
        while (index < parties.length && parties[index] != party) ++index;
    }

    /// @dev A line of one of the last posts, so that most of what is tried is in time.
    function _spot(uint256 seed) internal returns (Spot memory spot) {
        _need(posts.length != 0);
        uint256 back = _mix(seed, "post") % (posts.length < 6 ? posts.length : 6);
        spot.post = uint32(posts.length - 1 - back);
        spot.lane = uint16(_mix(seed, "lane") % posts[spot.post].lanes);
        spot.index = uint32(_mix(seed, "index") % lanes[spot.post][spot.lane].size);
    }

    /* INTERNAL: READING */

    function _line(Spot memory spot) internal view returns (Line storage) {
        return lines[spot.post][spot.lane][spot.index];
    }

    function _laneAt(Spot memory spot) internal view returns (Lane storage) {
        return lanes[spot.post][spot.lane];
    }

    function _batchOf(Spot memory spot) internal view returns (IDisputes.Batch memory) {
        return abi.decode(posts[spot.post].batch, (IDisputes.Batch));
    }

    function _openingOf(Spot memory spot) internal view returns (IDisputes.Opening memory) {
        Draft memory draft = abi.decode(posts[spot.post].draft, (Draft));
        return _open(draft, spot.lane, spot.index);
    }

    function _placeOf(Spot memory spot) internal view returns (IDisputes.Place memory) {
        Post storage post = posts[spot.post];
        Lane storage lane = lanes[spot.post][spot.lane];
        return IDisputes.Place({
            coordinator: post.coordinator,
            seq: post.seq,
            postedAt: post.postedAt,
            lane: spot.lane,
            index: spot.index,
            requester: lane.requester,
            payee: lane.payee,
            laneAmount: lane.amount
        });
    }

    /// @dev Whether the credit of this post can still be taken back.
    function _isYoung(Spot memory spot) internal view returns (bool) {
        return posts[spot.post].postedAt / EPOCH + 1 >= VM.getBlockTimestamp() / EPOCH;
    }

    /// @dev Whether the line's price can be taken out of the lane now, or is out of it already.
    function _isTakeable(Spot memory spot) internal view returns (bool) {
        Line storage line = _line(spot);
        Lane storage lane = _laneAt(spot);
        if (line.isVoid) return false;
        return line.holds != 0 || (!lane.isVoid && (lane.open != 0 || _isYoung(spot)));
    }

    /// @dev Whether the line was paid and that was not taken back.
    function _isPaid(Spot memory spot) internal view returns (bool) {
        return !_line(spot).isVoid && !_laneAt(spot).isVoid;
    }

    function _laneKey(address coordinator, uint64 seq, uint16 lane)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(coordinator, seq, lane));
    }

    /* INTERNAL: THE RULES, IN BRIEF */

    function _touch(Spot memory spot) internal {
        Lane storage lane = _laneAt(spot);
        if (!lane.isTouched) touched.push(Spot({post: spot.post, lane: spot.lane, index: 0}));
        lane.isTouched = true;
    }

    function _held(Spot memory spot) internal {
        _touch(spot);
        ++_line(spot).holds;
    }

    /// @dev A line that is not void when the last dispute over it ends goes where its lane went.
    function _released(Spot memory spot) internal {
        Line storage line = _line(spot);
        if (--line.holds == 0 && _laneAt(spot).isVoid) line.isVoid = true;
    }

    function _voided(Spot memory spot) internal {
        _touch(spot);
        _line(spot).isVoid = true;
    }

    /* INTERNAL: OTHER LOGS */

    function _readWhy(Vm.Log memory log) private {
        bytes32 kind = log.topics[0];
        bool isLeaf = kind == EventsLib.LeafVoided.selector;
        if (isLeaf || kind == EventsLib.LaneVoided.selector) {
            address coordinator = address(uint160(uint256(log.topics[1])));
            (uint16 lane, uint64 amount) = isLeaf ? _leafVoid(log.data) : _laneVoid(log.data);
            refunded[_laneKey(coordinator, uint64(uint256(log.topics[2])), lane)] += amount;
        } else if (kind == EventsLib.JurySeated.selector) {
            (,,, address[] memory seated,) =
                abi.decode(log.data, (uint8, uint64, bytes32, address[], uint64));
            trials[uint256(log.topics[1])].jury = abi.encode(seated);
        } else if (kind == EventsLib.Slashed.selector) {
            address slashed = address(uint160(uint256(log.topics[1])));
            assertTrue(!isHonest[slashed], "an honest party was slashed");
        }
    }

    function _leafVoid(bytes memory data) private pure returns (uint16 lane, uint64 amount) {
        (lane,, amount,) = abi.decode(data, (uint16, uint32, uint64, uint8));
    }

    function _laneVoid(bytes memory data) private pure returns (uint16, uint64) {
        return abi.decode(data, (uint16, uint64));
    }
}
