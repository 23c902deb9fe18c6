"""What to do for a Cell and what to say of it: pure functions of what is observed.

``cells``       a Cell as a value                     ``deciding``     from what is observed to actions and a status
``resources``   one builder per child                 ``actions``      the values that go in and come out
``hashing``     what was applied, told by a hash      ``comparing``    what others have changed or added
``ownership``   whose an object is                    ``storage``      claims and their growth
``instances``   the pods of a Cell                    ``troubles``     why one is not ready
``conditions``  the status, as kstatus reads it       ``reasons``      its fixed words
``failures``    what to say when the API server would not have it
"""
