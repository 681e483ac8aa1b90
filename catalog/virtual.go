// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hashicorp/go-memdb"
)

// Each service that can be dialled over mutual TLS has an address of its own, which stands for the service as a whole and never
// changes as long as there is an instance. It is given with the first instance and free again after the last one: free
// addresses are given first, the lowest before the others.

const tableVirtual = "virtual" // *VirtualIP

// TopicVirtual is the addresses of one service; in no feed.
const TopicVirtual TopicKind = "virtual"

func virtualTopic(service Key) Topic { return Topic{Kind: TopicVirtual, Key: service.Fold()} }

// TopicVirtuals is the addresses of all services of a namespace that have one, which are those of the mesh.
const TopicVirtuals TopicKind = "virtuals"

// VirtualsTopic is the virtual addresses of the scope's services.
func VirtualsTopic(s Scope) Topic { return Topic{Kind: TopicVirtuals, Key: Key{Scope: s}} }

// MaxManualIPs is how many addresses can be assigned to a service by hand.
const MaxManualIPs = 8

// VirtualRange is the range of the addresses, the first of which is never given.
var VirtualRange = netip.MustParsePrefix("240.0.0.0/4")

const lastVirtualIP = 1<<28 - 2

// VirtualIP is an address that was given to a service once. Its key is Number.
type VirtualIP struct {
	Number  uint32   // its place in the range, from 1
	Service Key      // the service that has it; without a name it is free
	Manual  []string `json:",omitempty"` // further addresses of the service, which others chose
	Indexes
}

// Address is the address in its text form.
func (v *VirtualIP) Address() string {
	b := VirtualRange.Addr().As4()
	return netip.AddrFrom4([4]byte{b[0] | byte(v.Number>>24), byte(v.Number >> 16), byte(v.Number >> 8), byte(v.Number)}).String()
}

// AssignVirtualIPs gives a service that has a virtual address these further ones, and takes them from those that have them. The
// result's value is a VirtualIPsResult.
type AssignVirtualIPs struct {
	Service Key
	Manual  []string
}

// VirtualIPsResult says whether the service has a virtual address, and which others lost one.
type VirtualIPsResult struct {
	Found bool
	From  []Key
}

func (AssignVirtualIPs) commandType() string { return "assign-virtual-ips" }

func virtualString(number uint32) string { return fmt.Sprintf("%08x", number) }

func manualString(s Scope, address string) string { return join(s.Partition, s.Peer, address) }

func virtualTable() *memdb.TableSchema {
	return table(tableVirtual, rowKey(func(v *VirtualIP) string { return virtualString(v.Number) }),
		&memdb.IndexSchema{Name: "service", AllowMissing: true, Unique: true, Indexer: rowIndex(func(v *VirtualIP) (string, bool) {
			return nameString(v.Service), v.Service.Name != ""
		})},
		&memdb.IndexSchema{Name: "free", AllowMissing: true, Indexer: rowIndex(func(v *VirtualIP) (string, bool) { return "free", v.Service.Name == "" })},
		&memdb.IndexSchema{Name: "manual", AllowMissing: true, Indexer: manyIndex(func(row any) (keys []string) {
			v := row.(*VirtualIP)
			for _, a := range v.Manual {
				keys = append(keys, manualString(v.Service.Scope, a))
			}
			return keys
		})})
}

// found gives the first row under a key of an index; nil if there is none.
func found[T any](txn *memdb.Txn, table, index, key string) (row T) {
	v, err := txn.First(table, index, key)
	if err != nil {
		panic(err)
	}
	if v != nil {
		row = v.(T)
	}
	return row
}

// giveVirtual is the address of a service, given now if it has none; "" where the range is used up.
func (u *unit) giveVirtual(service Key) string {
	if v := found[*VirtualIP](u.w.txn, tableVirtual, "service", nameString(service)); v != nil {
		return v.Address()
	}
	next := VirtualIP{Number: 1}
	if v := found[*VirtualIP](u.w.txn, tableVirtual, "free", "free"); v != nil {
		next = *v
	} else if last, err := u.w.txn.Last(tableVirtual, "id"); err != nil {
		panic(err)
	} else if last != nil {
		next.Number = last.(*VirtualIP).Number + 1
	}
	if next.Number > lastVirtualIP {
		return ""
	}
	next.Service = service
	u.putVirtual(&next)
	return next.Address()
}

// freeVirtual takes a service's address back if it has no instance any more.
func (u *unit) freeVirtual(service Key) {
	v := found[*VirtualIP](u.w.txn, tableVirtual, "service", nameString(service))
	if v == nil || found[*instanceRow](u.w.txn, tableServices, "connect", nameString(service)) != nil {
		return
	}
	u.w.touch(virtualTopic(service))
	u.w.emit(VirtualsTopic(v.Service.Scope), "v"+virtualString(v.Number), nil)
	u.putVirtual(&VirtualIP{Number: v.Number, Indexes: v.Indexes})
}

// flushVirtual takes back what nobody uses any more, and writes the assignments.
func (u *unit) flushVirtual() {
	for _, s := range u.services.list {
		if s.changed() && s.old != nil {
			if k, ok := s.old.Service.Destination(); ok {
				u.freeVirtual(k)
			}
		}
	}
	for _, v := range u.virtual {
		u.putVirtual(v)
	}
}

func (u *unit) putVirtual(v *VirtualIP) {
	u.stamp(&v.Indexes, v.CreateIndex)
	insert(u.w.txn, tableVirtual, v)
	if v.Service.Name != "" {
		u.w.touch(virtualTopic(v.Service))
		u.w.emit(VirtualsTopic(v.Service.Scope), "v"+virtualString(v.Number), &record{virtual: v})
	}
}

// keepVirtual says which address a service's new record has already: that of the one it replaces, if both are instances of the same
// service. What the new one says itself never counts.
func keepVirtual(old *instanceRow, s *Service) {
	s.VirtualIP = ""
	if old == nil {
		return
	}
	before, was := old.Service.Destination()
	after, is := s.Destination()
	if was && is && nameString(before) == nameString(after) {
		s.VirtualIP = old.Service.VirtualIP
	}
}

// assignVirtual holds the rows back in u.virtual.
func (u *unit) assignVirtual(c *AssignVirtualIPs) (any, error) {
	service := c.Service
	service.Scope = service.Scope.Default(u.w.dc)
	if err := firstError(checkName("service name", service.Name), checkScope(service.Scope)); err != nil {
		return nil, err
	}
	if len(c.Manual) > MaxManualIPs {
		return nil, invalidf("cannot associate more than %d manual virtual IPs with the same service", MaxManualIPs)
	}
	for i, a := range c.Manual {
		addr, err := netip.ParseAddr(a)
		switch {
		case err != nil || addr.Zone() != "" || addr.String() != a:
			return nil, invalidf("%q is not a valid IP address", a)
		case VirtualRange.Contains(addr):
			return nil, invalidf("%q is in %s, which is for the virtual IPs that are given to services by themselves", a, VirtualRange)
		case slices.Contains(c.Manual[:i], a):
			return nil, invalidf("%q is there twice", a)
		}
	}
	mine := found[*VirtualIP](u.w.txn, tableVirtual, "service", nameString(service))
	if mine == nil {
		return VirtualIPsResult{}, nil
	}
	result := VirtualIPsResult{Found: true}
	if slices.Equal(mine.Manual, c.Manual) {
		return result, nil
	}
	losers := map[uint32]*VirtualIP{}
	for _, a := range c.Manual {
		each(u.w.txn, tableVirtual, "manual", manualString(service.Scope, a), func(v *VirtualIP) {
			if v.Number == mine.Number {
				return
			}
			l := losers[v.Number]
			if l == nil {
				n := *v
				n.Manual, l = slices.Clone(v.Manual), &n
				losers[v.Number] = l
				u.virtual, result.From = append(u.virtual, l), append(result.From, v.Service)
			}
			l.Manual = slices.DeleteFunc(l.Manual, func(x string) bool { return x == a })
		})
	}
	next := *mine
	next.Manual = slices.Clone(c.Manual)
	u.virtual = append(u.virtual, &next)
	return result, nil
}

// VirtualIP gives a service's virtual address with those that were assigned by hand; nil if it has none.
func (t *Txn) VirtualIP(service Key) (*VirtualIP, error) {
	service = t.key(service)
	if err := t.use(virtualTopic(service)); err != nil {
		return nil, err
	}
	return found[*VirtualIP](t.db, tableVirtual, "service", nameString(service)), nil
}

// VirtualIPs lists the virtual addresses of the scope's services, by service. Whoever has one is in the mesh.
func (t *Txn) VirtualIPs(s Scope) ([]*VirtualIP, error) {
	s = s.Default(t.dc)
	if err := t.use(VirtualsTopic(s)); err != nil {
		return nil, err
	}
	var out []*VirtualIP
	each(t.db, tableVirtual, "service_prefix", scopeString(s)+s.Namespace+"\x00", func(v *VirtualIP) { out = append(out, v) })
	return out, nil
}
