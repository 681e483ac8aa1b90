// SPDX-License-Identifier: Apache-2.0

// Package failpoint names the places of the servers' write path where tests let a server fail, and the bugs that they seed to see that
// they are found. A program that is built without the tags weftfail and weftbug has nothing of either: Hit and Bug are constants
// there. With weftfail, the environment variable WEFT_FAIL says what happens where, as
//
//	append-before=crash@17;snapshot-rename=error;apply-after=sleep:300ms@5
//
// crash is kill -9, error an error of the disk, sleep a delay; @17 is the seventeenth time that the place is reached, else the
// first. WEFT_FAIL_POWER=1 makes a crash a loss of power: what wasn't synced is gone. With weftbug, WEFT_BUG names a bug.
package failpoint

// Point is a place.
type Point string

// The places, in the order of a write.
const (
	Propose         Point = "propose"          // a command was checked; Raft hasn't got it
	AppendBefore    Point = "append-before"    // entries reach the log
	AppendHalf      Point = "append-half"      // half of a batch of entries is in the log
	WriteHalf       Point = "write-half"       // half of the bytes are written
	SyncBefore      Point = "sync-before"      // all are written, and not synced
	SyncAfter       Point = "sync-after"       // they are synced, and nobody knows
	SegmentBefore   Point = "segment-before"   // a file of the log is made
	SegmentAfter    Point = "segment-after"    // it is there, and empty
	AppendAfter     Point = "append-after"     // the log has them, Raft doesn't know
	ApplyBefore     Point = "apply-before"     // agreed, not applied
	ApplyAfter      Point = "apply-after"      // applied, Raft doesn't know
	Answer          Point = "answer"           // done, and not answered
	VoteBefore      Point = "vote-before"      // a term or a vote is stored
	VoteAfter       Point = "vote-after"       // it is stored, and not sent
	SnapshotCreate  Point = "snapshot-create"  // a snapshot is begun
	SnapshotHalf    Point = "snapshot-half"    // half of a piece of it is written
	SnapshotRename  Point = "snapshot-rename"  // it is whole, without its name
	SnapshotAfter   Point = "snapshot-after"   // it has its name
	CompactBefore   Point = "compact-before"   // the log is cut
	CompactAfter    Point = "compact-after"    // it is cut, Raft doesn't know
	RestoreBefore   Point = "restore-before"   // a snapshot is loaded
	RestoreAfter    Point = "restore-after"    // it is loaded, Raft doesn't know
	TransferPending Point = "transfer-pending" // another server is asked to lead
)

// Points are all of them.
func Points() []Point {
	return []Point{
		Propose, AppendBefore, AppendHalf, WriteHalf, SyncBefore, SyncAfter, SegmentBefore, SegmentAfter, AppendAfter, ApplyBefore, ApplyAfter,
		Answer, VoteBefore, VoteAfter, SnapshotCreate, SnapshotHalf, SnapshotRename, SnapshotAfter, CompactBefore, CompactAfter,
		RestoreBefore, RestoreAfter, TransferPending,
	}
}

// Seeded is a bug that is there on purpose, in programs built with weftbug.
type Seeded string

// The bugs. The last two are the catalog's own, which imports nothing.
const (
	AckEarly     Seeded = "ack-early"     // the log says that it is on disk when it will be
	Unchecked    Seeded = "unchecked"     // reads don't ask whether the leader still leads
	SkipOne      Seeded = "skip-one"      // one command of a batch is answered and not applied
	DropField    Seeded = "drop-field"    // a snapshot lacks a field of keys
	IgnoredCheck Seeded = "ignored-check" // a check-and-set doesn't check
)
