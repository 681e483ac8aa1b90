// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"strings"
)

// The states of a peering.
const (
	PeeringPending      = "PENDING"      // a token was made, nobody has used it
	PeeringEstablishing = "ESTABLISHING" // the other cluster's token is here, and it isn't connected
)

// Peering is another cluster, as this one knows it. Its key is Partition and Name.
type Peering struct {
	ID        string
	Name      string
	Partition string
	State     string
	Meta      map[string]string `json:",omitempty"`
	// What a token of the other cluster says of it; empty where this cluster made the token.
	PeerID              string   `json:",omitempty"`
	PeerCAPems          []string `json:",omitempty"`
	PeerServerName      string   `json:",omitempty"`
	PeerServerAddresses []string `json:",omitempty"`
	RemoteDatacenter    string   `json:",omitempty"`
	RemotePartition     string   `json:",omitempty"`
	// Secret proves to the other side that this one may establish the peering: given by its token, or the SHA-256 in hex of what
	// this cluster's last token gave.
	Secret string `json:",omitempty"`
	Indexes
}

// SetPeering writes a peering. One that is there keeps its ID. The result's value is the ID.
type SetPeering struct{ Peering Peering }

// DeletePeering removes a peering. One that isn't there is no error. The result has no value.
type DeletePeering struct{ Name, Partition string }

func (SetPeering) commandType() string    { return "set-peering" }
func (DeletePeering) commandType() string { return "delete-peering" }

const tablePeerings = "peerings" // *Peering

// TopicPeerings is all peerings; in no feed.
const TopicPeerings TopicKind = "peerings"

var peeringsTopic = Topic{Kind: TopicPeerings}

func peeringString(partition, name string) string {
	return join(cmp.Or(partition, DefaultPartition), strings.ToLower(name))
}

func (u *unit) setPeering(p Peering) (any, error) {
	p.Partition = cmp.Or(p.Partition, DefaultPartition)
	if err := firstError(checkName("peering name", p.Name), checkName("peering ID", p.ID)); err != nil {
		return nil, err
	}
	slot := u.peerings.at(u.w, peeringString(p.Partition, p.Name))
	var created uint64
	if old := slot.new; old != nil {
		// A peering is made from one side: this cluster made a token, or it took one.
		if old.PeerID != "" && old.PeerID != p.PeerID {
			return nil, invalidf("cannot create peering with name: %q; there is already an established peering", p.Name)
		}
		if old.PeerID == "" && p.PeerID != "" {
			return nil, invalidf("cannot create peering with name: %q; there is already a peering that waits for the other cluster", p.Name)
		}
		p.ID, created = old.ID, old.CreateIndex
		if p.Meta == nil {
			p.Meta = old.Meta
		}
	}
	u.stamp(&p.Indexes, created)
	slot.new = &p
	return p.ID, nil
}

func (u *unit) flushPeering(s *slot[*Peering]) {
	if s.new != nil {
		insert(u.w.txn, tablePeerings, s.new)
	} else {
		remove(u.w.txn, tablePeerings, s.old)
	}
	u.w.touch(peeringsTopic)
}

// Peering gives a peering by name; nil if there is none.
func (t *Txn) Peering(partition, name string) (*Peering, error) {
	if err := t.use(peeringsTopic); err != nil {
		return nil, err
	}
	return first[*Peering](t.db, tablePeerings, peeringString(partition, name)), nil
}

// Peerings lists the peerings of a partition by name.
func (t *Txn) Peerings(partition string) ([]*Peering, error) {
	if err := t.use(peeringsTopic); err != nil {
		return nil, err
	}
	var out []*Peering
	each(t.db, tablePeerings, "id_prefix", join(cmp.Or(partition, DefaultPartition)), func(p *Peering) { out = append(out, p) })
	return out, nil
}
