"""
The rows of the error catalog about jobs, content, verification and the network: 5xxx to 9xxx.

First line: code, HTTP status, how a command exits, whose fault, `retry` or `final`.
Then the title, the summary, and one remedy a line: text that reads like the page it becomes.
"""

from __future__ import annotations

ROWS: tuple[str, ...] = (
    # ---- 5xxx: job -------------------------------------------------------------------------
    """GM-5001 404 NOT_FOUND requester final
no such job
This coordinator has no job whose id begins like this.
gpumarket job list""",
    """GM-5002 409 USAGE requester final
the job's id is ambiguous
Several jobs begin with these characters.
gpumarket job list    (and give more characters)""",
    """GM-5003 409 CONFLICT requester final
the job is not in a state for this
What was asked needs the job to be further on, or not yet over.
gpumarket job describe JOB""",
    """GM-5004 504 NOT_FINISHED none retry
the job has not finished in time
The waiting ended, the job did not; it keeps running.
gpumarket job describe JOB
gpumarket job wait JOB""",
    """GM-5101 422 JOB_FAILED requester final
the program failed
The container ran, and the program in it ended with an exit code other than zero.
gpumarket job logs JOB""",
    """GM-5102 422 JOB_FAILED requester final
a task ran longer than its limit
The program was still running when limits.run was over, and was stopped.
raise limits.run, or make tasks smaller with split.size""",
    """GM-5103 422 JOB_FAILED requester final
a task's output is over its limit
The program wrote more than the output's max_size allows.
raise max_size of the output""",
    """GM-5104 422 JOB_FAILED requester final
a task used more memory than it asked for
The kernel stopped the program at the limit that resources.memory sets.
raise resources.memory""",
    """GM-5105 422 JOB_FAILED requester final
a task's checkpoints cannot be used
A training task must leave whole checkpoints up to its last step, each below checkpoint.max_size.
gpumarket job logs JOB
raise checkpoint.max_size, or see "Training" in docs/guides/requester.md""",
    """GM-5201 502 MARKET_FAILED provider retry
a container could not be run as asked
The engine refused or lost the container; the program is not to blame.
gpumarket job describe JOB
gpumarket doctor --role provider""",
    """GM-5203 422 JOB_FAILED requester final
the image is not the one that was signed
The archive holds another image than the digest in the signed job.
rebuild the archive, or correct image_digest""",
    """GM-5204 422 JOB_FAILED requester final
the image archive is refused
The archive is not a plain docker-archive, or holds something that could leave its folder.
docker save IMAGE -o image.tar""",
    """GM-5301 502 MARKET_FAILED provider retry
a provider was lost
The provider stopped answering; its unfinished tasks go to others and are not charged.
gpumarket job describe JOB""",
    """GM-5302 502 MARKET_FAILED provider retry
a device failed
The GPU reported an error; the task goes to another provider and is not charged.
gpumarket job describe JOB""",
    """GM-5303 502 MARKET_FAILED provider retry
a lease was declined
The provider would not take the task; another one is asked.
gpumarket job why JOB""",
    """GM-5304 502 MARKET_FAILED provider retry
a lease's deadline passed
No receipt came in time; the task goes to another provider and is not charged.
gpumarket job describe JOB""",
    """GM-5401 409 JOB_CANCELLED requester final
the job was cancelled
The requester ended it; what was accepted until then is paid, the rest is free again.
gpumarket job receipt JOB""",
    # ---- 6xxx: content ---------------------------------------------------------------------
    """GM-6001 502 MARKET_FAILED network retry
content could not be fetched
Bytes are missing, late or wrong; what arrived and was checked is kept.
gpumarket data stat CID""",
    """GM-6010 400 USAGE requester final
not a CID
Content is named by a CID of version 0 or 1 with sha2-256.
gpumarket data add PATH    (prints one)""",
    """GM-6011 400 INVALID_FILE requester final
this cannot be content
A name is not plain, a folder is too large, or something is neither file nor folder.
put the files into subfolders or into one archive""",
    """GM-6012 404 NOT_FOUND requester final
content cannot be found
Nobody who was asked has this content.
gpumarket data add PATH
gpumarket data stat CID""",
    """GM-6013 413 INVALID_FILE requester final
content is too large
The content is over the limit of whoever should store it.
gpumarket market offers    (the coordinator's limits are in /v1/info)""",
    """GM-6014 502 MARKET_FAILED network final
content is not what its CID says
Bytes hash to another name; they were thrown away.
run the command again; if it stays, the sender is broken""",
    """GM-6015 504 MARKET_FAILED network retry
content did not come in time
Some blocks are missing when the time was over; what came is kept.
gpumarket data stat CID""",
    """GM-6016 404 NOT_FOUND network retry
a block is not in the store
The store does not have this block, or had to remove a damaged one.
gpumarket data stat CID""",
    """GM-6017 422 MARKET_FAILED network final
not readable content
The blocks are what their CIDs say, but they are not files or folders.
gpumarket data stat CID""",
    """GM-6018 422 MARKET_FAILED network final
a folder where a file was meant
The CID names a folder; one file is needed here.
gpumarket data stat CID""",
    """GM-6019 409 CONFLICT none final
the place exists already
Content is never written over something that exists.
remove it, or choose another place""",
    """GM-6030 507 MARKET_FAILED provider retry
the content store is full
No space is left under the store's limit or on its disk.
free space on the disk""",
    """GM-6031 500 MARKET_FAILED provider final
the disk refused
Reading or writing the content store failed in the operating system.
look at the disk and the permissions of the data folder""",
    """GM-6032 409 CONFLICT none final
another process uses the content store
One store belongs to one process.
stop the other process, or set another data_dir""",
    """GM-6033 503 UNREACHABLE none retry
no answer from Kubo
The configured Kubo daemon is not running or not reachable.
ipfs daemon""",
    """GM-6034 502 MARKET_FAILED none retry
a call that Kubo refused
The Kubo daemon answered with an error of its own.
ipfs log tail""",
    # ---- 7xxx: verification and audit ------------------------------------------------------
    """GM-7001 422 AUDIT_FAIL none final
verification FAILED
A contradiction was found: something that was claimed cannot be true.
gpumarket audit verify JOB --json > evidence.json""",
    """GM-7010 422 AUDIT_INCOMPLETE none retry
verification INCOMPLETE
Evidence is missing; nothing was disproved and nothing proved.
gpumarket audit verify JOB --rpc URL    (an archive node)""",
    """GM-7101 422 MARKET_FAILED provider final
a forged result
A task done again gave another result; the provider's tasks of this round are not paid.
gpumarket job describe JOB
gpumarket audit verify JOB""",
    """GM-7102 422 MARKET_FAILED provider final
a result was not opened
The provider committed to results and then did not show them in time; they are not paid.
gpumarket job describe JOB""",
    """GM-7103 422 MARKET_FAILED provider final
a root was not signed
The provider did not agree to the list of its receipts in time; its tasks are done again.
gpumarket job describe JOB""",
    """GM-7104 422 MARKET_FAILED verifier retry
a check was inconclusive
The verifier could not do the task again; nobody is blamed and the task is done once more.
gpumarket job describe JOB""",
    """GM-7105 422 MARKET_FAILED verifier retry
no verifier answers
Checks wait until a registered verifier is connected.
gpumarket job why JOB""",
    """GM-7106 422 MARKET_FAILED provider retry
a checkpoint is not what its provider says
The weights, the length of the update or the loss that was signed are not those of its checkpoint.
gpumarket job describe JOB""",
    """GM-7107 422 MARKET_FAILED provider retry
the job's own program calls a result different
Nothing that this provider did for the job in this round is paid; other jobs' pay is not touched.
gpumarket job describe JOB""",
    """GM-7108 422 MARKET_FAILED none retry
forged on purpose
The coordinator's operator had its own provider forge this task of its own order, to test verifiers.
gpumarket market verifiers""",
    """GM-7202 409 MARKET_FAILED verifier final
a check was asked for too late
The deadline of a check had passed when it was asked for.
sudo timedatectl set-ntp true""",
    """GM-7203 503 MARKET_FAILED verifier retry
the verifier has no room for a check
It has as many unfinished checks as it may have.
gpumarket job why JOB""",
    """GM-7204 409 MARKET_FAILED verifier final
no juror judges by a requester's own program
Such a program could call anything different, and a jury's verdict takes a provider's stake.
gpumarket job describe JOB""",
    """GM-7205 503 MARKET_FAILED verifier final
a rule needs a package that is not installed
The job's rule is judged by the package toploc, an extra that brings PyTorch and some 5 GB.
pip install 'gpumarket[toploc]'""",
    # ---- 8xxx: coordinator and network -----------------------------------------------------
    """GM-8001 500 MARKET_FAILED coordinator retry
the coordinator failed
The coordinator stopped at this request with an error of its own.
run the command again later
gpumarket doctor""",
    """GM-8002 429 UNREACHABLE none retry
too many requests
A limit on requests or connections was reached.
wait for the time the answer names""",
    """GM-8003 503 UNREACHABLE network retry
no contact with the coordinator
Nobody answers at the coordinator's address; running jobs are not affected.
gpumarket doctor
gpumarket config show --origin""",
    """GM-8004 502 MARKET_FAILED coordinator final
the coordinator's answer is not understood
The answer does not have the promised form; the two versions may not fit.
gpumarket version
gpumarket doctor""",
    """GM-8005 404 NOT_FOUND none final
there is nothing at this address
The coordinator does not know this path.
gpumarket version""",
    """GM-8006 403 MARKET_FAILED coordinator final
the coordinator was caught
The chain holds proof that this coordinator posted a payment it could not justify.
gpumarket wallet withdraw AMOUNT    (asks for the escrow back)
choose another coordinator""",
    """GM-8101 500 CONFLICT none final
the port is in use
Another process listens there already.
stop the other process, or set another port""",
    """GM-8102 500 CONFLICT none final
the data folder is in use
Another process of this role works in the same data folder.
stop the other process, or set another data_dir""",
    """GM-8103 502 MARKET_FAILED network retry
the session was closed
The peer ended the session or the connection broke; it is opened again.
gpumarket doctor""",
    """GM-8104 502 MARKET_FAILED network retry
the peer gives no sign of life
Nothing arrived for longer than two heartbeats; the session is opened again.
gpumarket doctor""",
    """GM-8105 400 USAGE none final
an address to listen on is no good
The host cannot listen where the configuration says.
gpumarket config show --origin""",
    """GM-8106 400 MARKET_FAILED network final
malformed gossip
A peer broadcast something that is not an offer; it was dropped and counted.
look at the peer's version""",
    """GM-8107 500 BUG none retry
the network host died
The libp2p host of this process ended; it is started again.
gpumarket doctor""",
    """GM-8108 502 MARKET_FAILED network retry
the peer cannot be reached
No connection to any of the peer's addresses came about.
gpumarket doctor""",
    """GM-8201 400 MARKET_FAILED network final
a peer broke the protocol
Something that arrived is malformed, unsigned or over a limit; it was dropped and counted.
look at the peer's version""",
    """GM-8202 400 MARKET_FAILED network final
a message for somebody else
A signed message names another recipient; it was dropped.
look at the peer's version""",
    """GM-8203 400 MARKET_FAILED network final
a repeated message
A message's number is not above the last one; it was dropped.
look at the peer's version""",
    """GM-8204 400 MARKET_FAILED network final
a message outside its time
A message's deadline has passed or lies too far ahead; often a clock is off.
sudo timedatectl set-ntp true""",
    """GM-8210 400 MARKET_FAILED network final
a malformed frame
The framing of a session was broken; the session was closed.
look at the peer's version""",
    """GM-8211 400 MARKET_FAILED network final
a frame over the limit
A peer announced or sent more than it may; the session was closed.
look at the peer's version""",
    """GM-8212 400 MARKET_FAILED network final
another version of the session protocol
The peer speaks a version that we do not.
gpumarket version""",
    # ---- 9xxx: bugs ------------------------------------------------------------------------
    """GM-9001 500 BUG none final
a bug of ours
Something happened that must not happen; the command stopped where it was.
run the command again with -vv and report what it prints""",
    """GM-9002 500 BUG none final
the state is damaged
What is on disk contradicts itself; the process stopped and touched nothing.
keep the data folder as it is and report it""",
)
